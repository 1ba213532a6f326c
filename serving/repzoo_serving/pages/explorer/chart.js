// A column for each dimension of a vector, with marks at heights on a common scale.
import { make } from "./dom.js";

const MOST = 64; // dimensions

// Marks of a dimension are { kind: [low, high] }; `kind` is a class of the style sheet.
export class Chart {
  #element;
  #ends = [0, 0];

  constructor(element) {
    this.#element = element;
  }

  // Forget the scale, which otherwise only grows, so that marks can be compared as they change.
  reset() {
    this.#ends = [0, 0];
  }

  // Show a list of marks, one for each dimension, with `words(i)` as their titles. Return how many are shown.
  show(dimensions, words) {
    const shown = dimensions.slice(0, MOST);
    const values = shown.flatMap((marks) => Object.values(marks).flat());
    const [low, high] = [Math.min(this.#ends[0], ...values), Math.max(this.#ends[1], ...values)];
    this.#ends = [low, high];
    const percent = (value) => `${(100 * (high - value)) / (high - low || 1)}%`;
    const kinds = ["zero", ...Object.keys(shown[0])];
    let columns = [...this.#element.querySelectorAll(".dimension")];
    if (columns.length !== shown.length || columns[0].dataset.kinds !== kinds.join()) {
      columns = shown.map((_, i) => {
        const column = make("div", { className: "dimension" }, ...kinds.map((kind) => make("i", { className: kind })));
        column.dataset.kinds = kinds.join();
        column.dataset.index = shown.length <= 16 ? i : "";
        return column;
      });
      this.#element.replaceChildren(...columns, make("span", { className: "top" }), make("span", { className: "bottom" }));
    }
    this.#element.classList.toggle("many", shown.length > 32);
    columns.forEach((column, i) => {
      column.title = words(i);
      Object.entries({ zero: [0, 0], ...shown[i] }).forEach(([, [from, to]], k) => {
        const mark = column.children[k].style;
        mark.top = percent(Math.max(from, to));
        mark.height = `${(100 * Math.abs(to - from)) / (high - low || 1)}%`;
      });
    });
    this.#element.querySelector(".top").textContent = high.toPrecision(2);
    this.#element.querySelector(".bottom").textContent = low.toPrecision(2);
    return shown.length;
  }
}
