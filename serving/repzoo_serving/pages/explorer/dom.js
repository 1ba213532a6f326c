// Helpers for elements.

export const $ = (id) => document.getElementById(id);

// Make an element with properties and children.
export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// A labelled range with its value: { row, slider, set(value) }. `onmove(value)` when the user moves it.
export function range(name, { min, max, step, words }, onmove) {
  const slider = make("input", { type: "range", min, max, step });
  const output = make("output", { "aria-hidden": "true" });
  const set = (value) => {
    slider.value = value;
    output.value = words(Number(value));
    slider.setAttribute("aria-valuetext", output.value);
  };
  slider.addEventListener("input", () => {
    set(slider.value);
    onmove(Number(slider.value));
  });
  return { row: make("label", {}, make("span", {}, name), slider, output), slider, set };
}

// A function that runs `work` one call at a time. While it runs, only one more call waits.
export function latest(work) {
  let [busy, again] = [false, false];
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    try {
      while (again) {
        again = false;
        await work();
      }
    } finally {
      busy = false;
    }
  };
}

// Load an image from base64 of a file.
export async function picture(base64) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  return image;
}
