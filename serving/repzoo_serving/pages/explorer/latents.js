// Sliders that move the latents of an image, and the image that the decoder makes of them.
import { call, can } from "./api.js";
import { $, latest, range } from "./dom.js";

const MOST = 32;

export class Latents {
  #model = null;
  #start = [];
  #values = [];
  #onproblem;

  // `onanalyse(base64)` when the user asks for the answer for the generated image.
  constructor({ onanalyse, onproblem }) {
    this.#onproblem = onproblem;
    $("unmove").addEventListener("click", () => this.show(this.#start));
    $("analyse").addEventListener("click", () => onanalyse($("generated").src.split(",")[1]));
  }

  get values() {
    return this.#values;
  }

  use(model) {
    this.#model = model;
    $("latents").hidden = !can(model, "generate");
  }

  show(values) {
    if (!can(this.#model, "generate")) return;
    this.#start = values;
    this.#values = [...values];
    const shown = values.slice(0, MOST);
    const reach = Math.ceil(Math.max(4, ...shown.map(Math.abs)));
    const about = { min: -reach, max: reach, step: "any", words: (value) => value.toFixed(2) };
    $("sliders").replaceChildren(...shown.map((value, i) => {
      const { row, set } = range(`z${i}`, about, (moved) => {
        this.#values[i] = moved;
        this.#draw();
      });
      set(value);
      return row;
    }));
    $("latents-note").textContent = values.length > MOST
      ? `The first ${MOST} of ${values.length} latents are shown. The others keep the values of the image.`
      : "";
    this.#draw();
  }

  #draw = latest(async () => {
    try {
      const { images: [image] } = await call("generate", { model: this.#model.name, latents: [this.#values] });
      $("generated").src = `data:image/png;base64,${image}`;
    } catch (error) {
      this.#onproblem(error);
    }
  });
}
