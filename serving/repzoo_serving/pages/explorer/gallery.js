// Neighbours of an image: in the server's index, or else among samples of the model, or among the examples.
import { call, can, embed, search } from "./api.js";
import { $, make, picture } from "./dom.js";
import { Globe } from "./globe.js";
import { nearest, place } from "./neighbours.js";

const MOST_SAMPLES = 512; // a page that is loaded again and again must not fill the server's queue
const MOST_PIXELS = 800000; // of all samples
const ON_GLOBE = 60;

export class Gallery {
  #model = null;
  #items = null; // a promise of [{ base64, image, plain, robust, words }]
  #globe;
  #onpick;

  // `onpick(item)` when the user chooses a neighbour, `onsearch()` when other neighbours are asked for.
  constructor({ onpick, onsearch }) {
    this.#onpick = onpick;
    $("search").addEventListener("submit", (event) => event.preventDefault());
    $("search").addEventListener("change", onsearch);
    const hint = "Drag to rotate, click a sample to analyse it.";
    $("globe-words").textContent = hint;
    this.#globe = new Globe($("globe"), {
      onpick: (each) => { if (each.base64) onpick(each); },
      onlit: (each) => { $("globe-words").textContent = each ? each.words : hint; },
    });
  }

  // `examples` is a promise of [{ base64, words }], which are the gallery if the model makes no samples.
  use(model, examples) {
    this.#model = model;
    this.#items = null;
    this.examples = examples;
    $("nearest").replaceChildren("Looking for neighbours ...");
    $("around").hidden = !can(model, "generate");
    $("search").hidden = !can(model, "search");
    $("metric").replaceChildren(...(model.index?.metrics ?? []).map((name) => new Option(name)));
    $("abstain").parentElement.hidden = !model.config.uncertainty;
  }

  // The options of /search that the user has chosen.
  get options() {
    const [metric, abstain] = [$("metric").value, $("abstain").valueAsNumber];
    return { ...(metric !== "mean" && { metric }), ...(abstain >= 0 && this.#model.config.uncertainty && { abstain }) };
  }

  #load() {
    this.#items ??= this.#find(this.#model);
    this.#items.catch(() => { this.#items = null; });
    return this.#items;
  }

  async #find(model) {
    const { height, width, channels } = model.config.input;
    const many = Math.max(128, Math.floor(MOST_PIXELS / (height * width * channels)));
    // Half of what a request may ask for: the page asks for other images at the same time.
    const n = Math.min(MOST_SAMPLES, Math.ceil(model.limits.max_images / 2), many);
    const found = can(model, "generate")
      ? (await call("generate", { model: model.name, n, seed: 0 })).images.map((base64) => ({ base64, words: "sample" }))
      : await this.examples;
    const vectors = await embed(model, found.map(({ base64 }) => base64));
    return Promise.all(found.map(async (each, i) => ({ ...each, ...vectors[i], image: await picture(each.base64) })));
  }

  // Find the neighbours of an image. `current()` says whether they are still wanted when they are known.
  async show(shown, { plain, robust }, { still, current }) {
    const model = this.#model;
    const sampled = can(model, "generate");
    const own = can(model, "search");
    if (own) {
      const found = await search(model, shown.sent, this.options);
      if (!current()) return;
      this.#label("images of the index", "Images of the index that this server was started with. Numbers are distances.");
      $("nearest").replaceChildren(found ? this.#row(found) : "The image is too uncertain: no answer.");
      if (!sampled) return;
    }
    const items = (await this.#load()).filter(({ base64 }) => sampled || base64 !== shown.base64);
    if (!current()) return;
    const cosine = model.config.metric === "cosine";
    const find = (centre, kind, count) =>
      nearest(centre, items.map((item) => item[kind]), Math.min(count, Math.ceil(items.length / (sampled ? 2 : 1))), cosine);
    const around = find(plain, "plain", ON_GLOBE);
    if (sampled) this.#showGlobe(shown, items, around, still);
    if (own) return;
    const count = robust ? 6 : 12;
    const row = (found) => this.#row(found.map(({ index, distance }, rank) => (
      { ...items[index], words: `${items[index].words} ${rank + 1}`, distance })));
    const rows = [row(around.slice(0, count))];
    if (robust) {
      rows.unshift(make("h3", {}, "Plain", make("small", {}, " by the embedding of this image")));
      rows.push(make("h3", {}, "Robust", make("small", {}, " by the content mean")),
        row(find(robust, "robust", count)));
    }
    $("nearest").replaceChildren(...rows);
    const estimate = robust ? "The content mean estimates the embedding of the undegraded image. " : "";
    this.#label(sampled ? "samples of the model" : "example images", estimate + (sampled
      ? `Of ${items.length} samples that the model generated. They are not images of a data set. Numbers are distances.`
      : "This model generates no samples, so these are the examples above. Numbers are distances."));
  }

  #label(badge, note) {
    $("near").querySelector(".badge").textContent = badge;
    $("near-note").textContent = note;
  }

  #row(found) {
    return make("ol", { className: "thumbs" }, ...found.map((item) => {
      const { base64, words, distance } = item;
      const image = make("img", base64
        ? { src: `data:image/png;base64,${base64}`, alt: `${words}, at a distance of` }
        : { alt: `${words}, whose file cannot be read, at a distance of` });
      image.addEventListener("load", () => image.classList.toggle("fine", image.naturalWidth > 128));
      const button = make("button", { type: "button", title: `Analyse ${words}`, disabled: !base64 }, image, distance.toPrecision(3));
      button.addEventListener("click", () => this.#onpick(item));
      return make("li", {}, button);
    }));
  }

  #showGlobe(shown, items, around, still) {
    const { places, share } = place(around);
    const neighbours = around.map(({ index, distance }, rank) => ({
      ...items[index], place: places[rank], words: `sample ${rank + 1}, at a distance of ${distance.toPrecision(3)}`,
    }));
    this.#globe.show([{ image: shown.canvas, place: [0, 0, 1], words: "the image" }, ...neighbours], still);
    $("globe-about").textContent =
      `The ${around.length} nearest of ${items.length} samples, nearer ones nearer to the image in front. Directions are the ` +
      `two axes in which they differ most, with ${Math.round(100 * share)} % of their squared distances.`;
  }
}
