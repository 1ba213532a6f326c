// The explorer: one image, and all results of the chosen model for it.
import { bars } from "./charts.js";
import { Globe } from "./globe.js";
import { neighbours } from "./neighbours.js";

const $ = (id) => document.getElementById(id);
const MOST_SLIDERS = 32;
const MOST_SAMPLES = 1024; // searched for neighbours
const MOST_PIXELS = 800000; // of all samples
const MOST_NEIGHBOURS = 60;
const MOST_LISTED = 9;
const PARTS = [
  "posterior", "probes", "latents", "reconstruction", "input", "uncertainty", "neighbours",
];

let models = [];
let asked = 0; // counts images, so that late responses for earlier images are dropped
let drawn = 0; // the same for generated images
let latents = [];
let samples = null; // a promise of the chosen model's { model, latents, images }

// Requests.

async function call(path, body) {
  const headers = {};
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const result = await response.json();
  if (response.ok) return result;
  if (response.status === 401) $("key-form").hidden = false;
  throw new Error(result.detail);
}

const chosen = () => models.find((model) => model.name === $("model").value);
const can = (operation) => chosen().capabilities.includes(operation);
const say = (text) => { $("status").textContent = text; };

function guarded(work) {
  return async (...given) => {
    try {
      await work(...given);
    } catch (error) {
      say(`Error: ${error.message}`);
    }
  };
}

// Models.

const loadModels = guarded(async () => {
  models = (await call("models")).models;
  $("model").replaceChildren(...models.map((model) => new Option(model.name)));
  if (!models.length) return say("No model is loaded yet.");
  showModel();
});

function showModel() {
  const { config, revision, provider } = chosen();
  const { height, width, channels } = config.input;
  const colour = channels === 3 ? "colour" : "grey";
  $("about").textContent =
    `${config.method}, ${config.latent_dim} dimensions, ${width} × ${height} ${colour}, ` +
    `revision ${revision.slice(0, 12)}, on ${provider.replace("ExecutionProvider", "")}`;
  asked += 1;
  for (const id of PARTS) $(id).hidden = true;
  $("drop").classList.remove("full");
  $("sample").hidden = !can("generate");
  if (can("generate")) {
    showSliders(new Array(config.latent_dim).fill(0));
    generate();
  }
  say("");
}

// Images.

function readBase64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

const takeFile = guarded(async (file) => {
  if (!file) return;
  showInput(URL.createObjectURL(file));
  await analyse(await readBase64(file));
});

const takeSample = guarded(async () => {
  const { images: [image] } = await call("generate", { model: chosen().name, n: 1 });
  showInput(`data:image/png;base64,${image}`);
  await analyse(image);
});

function showInput(url) {
  const old = $("input").src;
  if (old.startsWith("blob:")) URL.revokeObjectURL(old);
  $("input").src = url;
  $("input").hidden = false;
  $("drop").classList.add("full");
}

async function analyse(image) {
  const turn = ++asked;
  const start = performance.now();
  const request = { model: chosen().name, images: [image] };
  const tasks = chosen().config.probes;
  say("Waiting for the models ...");
  const [vectors, reconstruction, ...probes] = await Promise.all([
    call(can("posterior") ? "posterior" : "embed", request),
    can("reconstruct") ? call("reconstruct", request) : null,
    ...tasks.map(({ task, kind }) => call("probe", { ...request, task, kind })),
  ]);
  if (turn !== asked) return;
  const vector = (vectors.mean || vectors.embeddings)[0];
  showVectors(vectors);
  showUncertainty(vectors.uncertainty);
  showReconstruction(reconstruction);
  showProbes(tasks, probes);
  if (can("generate")) {
    showSliders(vector);
    await generate();
  }
  say(`Done in ${Math.round(performance.now() - start)} ms.`);
  if (can("generate")) await showNeighbours(vector, turn);
}

function showReconstruction(result) {
  $("reconstruction").hidden = !result;
  if (!result) return;
  $("reconstruction").querySelector("img").src = `data:image/png;base64,${result.images[0]}`;
  $("reconstruction").querySelector("figcaption").textContent =
    `reconstruction, mean squared error ${result.error[0].toPrecision(3)}`;
}

function showVectors(result) {
  const mean = (result.mean || result.embeddings)[0];
  const deviation = result.variance && result.variance[0].map(Math.sqrt);
  $("posterior").hidden = false;
  $("posterior").querySelector("h2").textContent = deviation
    ? `Posterior: ${mean.length} means, ± 2 standard deviations`
    : `Embedding: ${mean.length} dimensions`;
  const number = (value) => value.toPrecision(4);
  const words = (i) => `${i}: ${number(mean[i])}${deviation ? ` ± ${number(deviation[i])}` : ""}`;
  bars($("means"), mean, deviation && deviation.map((value) => 2 * value), words);
  $("deviations-part").hidden = !deviation;
  if (deviation) bars($("deviations"), deviation, null, words);
}

function showUncertainty(values) {
  $("uncertainty").hidden = !values;
  if (!values) return;
  const share = `${(100 * values[0]).toPrecision(2)} %`;
  $("uncertainty").querySelector("meter").value = values[0];
  $("uncertainty").querySelector("span").textContent = share;
  const { probability_of: event, fitted_on: fitted } = chosen().config.uncertainty;
  $("uncertainty").querySelector("small").textContent =
    `The calibrated probability that ${event}. Fitted on ${fitted}.`;
}

function showProbes(tasks, results) {
  $("probes").hidden = !results.length;
  $("probes").replaceChildren(...results.flatMap((result, i) => {
    const heading = document.createElement("h2");
    const label = [result.labels[0]].flat().join(", ") || "none";
    heading.textContent = `${tasks[i].task} (${tasks[i].kind}): ${label}`;
    const table = document.createElement("table");
    for (const [k, name] of result.classes.entries()) {
      const row = table.insertRow();
      const meter = document.createElement("meter");
      meter.value = result.probabilities[0][k];
      row.insertCell().textContent = name;
      row.insertCell().append(meter);
      row.insertCell().textContent = `${(100 * meter.value).toFixed(1)} %`;
    }
    return [heading, table];
  }));
}

// Latents.

function showSliders(values) {
  latents = [...values];
  $("latents").hidden = false;
  const reach = Math.ceil(Math.max(4, ...values.map(Math.abs)));
  $("sliders").replaceChildren(...values.slice(0, MOST_SLIDERS).map((value, i) => {
    const label = document.createElement("label");
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: -reach, max: reach, step: "any" });
    slider.value = value;
    slider.addEventListener("input", () => {
      latents[i] = Number(slider.value);
      generateSoon();
    });
    label.append(`${i}`, slider);
    return label;
  }));
}

// One request at a time: while one is in progress, only the newest position waits.
let busy = false;
let again = false;

async function generateSoon() {
  again = true;
  if (busy) return;
  busy = true;
  while (again) {
    again = false;
    await generate();
  }
  busy = false;
}

const generate = guarded(async () => {
  const turn = ++drawn;
  const { images: [image] } = await call("generate", { model: chosen().name, latents: [latents] });
  if (turn === drawn) $("generated").src = `data:image/png;base64,${image}`;
});

// Neighbours.

// The same for every image of a model; generated for the first image.
function drawSamples() {
  const { name: model, revision, limits, config } = chosen();
  if (samples?.revision === revision) return samples;
  const { height, width, channels } = config.input;
  const many = Math.max(128, Math.floor(MOST_PIXELS / (height * width * channels)));
  const n = Math.min(MOST_SAMPLES, limits.max_images, many);
  samples = Object.assign(call("generate", { model, n, seed: 0 }), { revision });
  samples.catch(() => { samples = null; });
  return samples;
}

async function showNeighbours(vector, turn) {
  const drawn = await drawSamples();
  const cosine = chosen().config.metric === "cosine";
  const keep = Math.min(MOST_NEIGHBOURS, Math.ceil(drawn.latents.length / 2));
  const { near, share } = neighbours(vector, drawn.latents, keep, cosine);
  const pictures = await Promise.all([
    picture($("generated").src, { place: [0, 0, 1], words: "the image as the model reconstructs it", latents: vector }),
    ...near.map(({ index, place, distance }, rank) => picture(`data:image/png;base64,${drawn.images[index]}`, {
      place, latents: drawn.latents[index], distance,
      words: `sample ${rank + 1}, at a distance of ${distance.toPrecision(3)}`,
    })),
  ]);
  if (turn !== asked) return;
  $("neighbours").hidden = false;
  globe.show(pictures);
  $("globe-about").textContent =
    `The ${keep} samples nearest to the image, of ${drawn.latents.length} generated from the model's prior. The ` +
    "framed picture is the image. Nearer samples are placed nearer to it, by rank; rotate the globe to see the " +
    `others. Directions show the two of ${vector.length} principal axes in which these samples differ most ` +
    `(${Math.round(100 * share)} % of their squared distances). They are samples of the model, not images of a ` +
    "data set.";
  $("nearest").replaceChildren(...pictures.slice(1, MOST_LISTED + 1).map((each) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Use these latents";
    each.image.alt = each.words;
    button.append(each.image.cloneNode(), each.distance.toPrecision(3));
    button.addEventListener("click", () => take(each));
    item.append(button);
    return item;
  }));
}

async function picture(source, about) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return { image, ...about };
}

function take({ latents, words }) {
  showSliders(latents);
  generateSoon();
  say(`Using the latents of ${words}.`);
}

const globe = new Globe($("globe"), {
  onpick: take,
  onlit: (each) => { $("globe-words").textContent = each ? each.words : "Drag to rotate; click a sample to use its latents."; },
});

// Events.

$("model").addEventListener("change", showModel);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  loadModels();
});
$("file").addEventListener("change", () => {
  takeFile($("file").files[0]);
  $("file").value = ""; // so that the same file can be chosen again
});
$("sample").addEventListener("click", takeSample);
$("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") $("file").click();
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") takeFile(event.dataTransfer.files[0]);
  });
}
loadModels();
