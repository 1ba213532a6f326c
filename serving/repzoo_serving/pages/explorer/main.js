// The explorer: one image, and all that the chosen model says about it.
import { showProbes, showReconstruction, showUncertainty, showVector, summary } from "./answer.js";
import { analyse, call, can, embed, embedRequest, probeRequests, reconstructRequest, searchRequest, vectorRequest } from "./api.js";
import { KINDS, drawDegraded } from "./degrade.js";
import { $, latest, make, picture, range } from "./dom.js";
import { findExamples } from "./examples.js";
import { Gallery } from "./gallery.js";
import { Latents } from "./latents.js";
import { listen, readFile } from "./picker.js";
import { addCopyRow } from "./snippets.js";

let models = [];
let model = null;
let chosen = null; // { base64, bitmap, name, clean }; `clean` are the vectors of the undegraded image
let sent = null; // base64 of the image in the newest answer
let turn = 0; // counts images and models, so that late responses for earlier ones are dropped
const strengths = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
const isDegraded = () => KINDS.some((kind) => strengths[kind] > 0);

const say = (text) => { $("status").textContent = text; };

const TITLES = { 0: "That did not work", 401: "This server needs an API key", 422: "The model cannot read this image" };

// Show the answer, or nothing but the first screen.
function show(answered) {
  document.body.classList.toggle("answered", answered);
  for (const id of ["answer", "below"]) $(id).hidden = !answered;
}

// While an answer for another image is awaited, the present one is dimmed.
const wait = (text) => {
  $("answer").classList.add("old");
  say(text);
};

// Replace the answer by an error.
function fail({ message, status = 0 }) {
  let words = message;
  if (status) { // the server's details begin in lower case
    const detail = message.replace(/^image 0: /, "").replace(/\.?$/, ".");
    words = chosen?.file ? `${chosen.file}: ${detail}` : detail.charAt(0).toUpperCase() + detail.slice(1);
  }
  if (status === 401) {
    $("key-form").hidden = false;
    if (!$("key").value) words = "Enter it at the top of this page.";
  }
  $("error").querySelector("h2").textContent = TITLES[status] ?? "The server refused the request";
  $("error").querySelector("p").textContent = words;
  $("error").hidden = false;
  $("promise").hidden = true;
  show(false);
  say("");
  $("error").scrollIntoView({ block: "nearest" });
}

// Models.

async function loadModels() {
  try {
    models = (await call("models")).models;
  } catch (error) {
    return fail(error);
  }
  $("error").hidden = true;
  $("key-form").hidden = !$("key").value;
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  if (!models.length) return fail(new Error("No model is loaded yet. Reload this page in a moment."));
  return useModel();
}

async function useModel() {
  const mine = ++turn;
  model = models.find(({ name }) => name === $("model").value);
  const { config, revision, provider } = model;
  const { height, width, channels } = config.input;
  $("about").textContent =
    `${config.summary}. ${config.latent_dim} dimensions, ${width} × ${height} ${channels === 3 ? "colour" : "grey"}, ` +
    `revision ${revision.slice(0, 8)}, on ${provider.replace("ExecutionProvider", "")}.`;
  chosen = null;
  $("error").hidden = true;
  $("promise").hidden = false;
  show(false);
  $("picker").querySelector(".badge").textContent = can(model, "generate") ? "samples of the model" : "drawings";
  $("reading").hidden = !can(model, "probe");
  say("");
  latents.use(model);
  $("examples").replaceChildren(...Array.from({ length: 6 }, () => make("button", { type: "button", disabled: true, "aria-label": "loading" })));
  const examples = findExamples(model);
  gallery.use(model, examples);
  try {
    const found = await examples;
    if (mine !== turn) return;
    $("examples").replaceChildren(...found.map(({ base64, words }) => {
      const button = make("button", { type: "button" }, make("img", { src: `data:image/png;base64,${base64}`, alt: words }));
      button.addEventListener("click", () => choose(base64));
      return button;
    }));
  } catch (error) {
    if (mine === turn) fail(error);
  }
}

// Images.

async function takeFile(file) {
  if (!model) return;
  const mine = ++turn;
  chosen = null;
  wait(`Reading ${file.name} ...`);
  try {
    const { height, width } = model.config.input;
    const read = await readFile(file, Math.max(256, 2 * height, 2 * width));
    const { max_bytes: most } = model.limits;
    if (read.base64.length + 1000 > most) {
      const mega = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
      throw new Error(`${file.name} has ${mega(file.size)}; this server takes at most ${mega((most * 3) / 4)}.`);
    }
    if (mine === turn) await start({ ...read, file: file.name });
  } catch (error) {
    if (mine === turn) fail(error);
  }
}

async function choose(base64) {
  const mine = ++turn;
  const bitmap = await picture(base64);
  if (mine === turn) await start({ base64, bitmap, name: "image.png" });
}

async function start(image) {
  for (const kind of KINDS) sliders[kind].set((strengths[kind] = 0));
  chosen = { ...image, clean: null };
  $("degradations").parentElement.classList.toggle("undrawn", !image.bitmap);
  $("error").hidden = true;
  wait("Waiting for the model ...");
  await answer();
}

// Ask for the answer for the chosen image with its present degradation, and show it.
async function answer() {
  if (!chosen) return;
  const mine = ++turn;
  const current = () => mine === turn;
  const still = Boolean(chosen.clean);
  const begun = performance.now();
  try {
    if (chosen.bitmap) drawDegraded($("input"), chosen.bitmap, strengths, model.config.input);
    const now = isDegraded();
    const image = now ? $("input").toDataURL("image/png").split(",")[1] : chosen.base64;
    const result = await analyse(model, image, !chosen.bitmap);
    if (!current()) return;
    sent = image;
    chosen.clean ??= now ? (await embed(model, [chosen.base64]))[0] : result.vectors;
    if (!current()) return;
    $("promise").hidden = true;
    $("error").hidden = true;
    $("answer").classList.remove("old");
    show(true);
    describeInput(now);
    showVector(model, result.vectors, chosen.clean, now);
    showReconstruction(result.reconstruction);
    showUncertainty(model, result.vectors.uncertainty);
    showProbes(model, result.probes);
    const said = summary(model, result);
    const done = now ? "Degraded" : `Answered in ${Math.round(performance.now() - begun)} ms`;
    say(`${done}${said && `: ${said}`}.`);
    if (!still) {
      latents.show(result.vectors.plain);
      reveal();
    }
    await gallery.show({ base64: chosen.base64, sent: image, canvas: $("input") }, result.vectors, { still, current });
    // The focus was on a neighbour that has been replaced.
    if (!still && document.activeElement === document.body) $("image-title").focus({ preventScroll: true });
  } catch (error) {
    if (current()) fail(error);
  }
}

function describeInput(now) {
  const done = KINDS.filter((kind) => strengths[kind] > 0).map((kind) => `${kind} ${Math.round(100 * strengths[kind])} %`);
  $("input").setAttribute("aria-label", now ? `the image with ${done.join(", ")}` : "the image");
  $("input").classList.toggle("coarse", Math.min($("input").width, $("input").height) < 200);
  const { width, height } = $("input");
  $("input").nextElementSibling.textContent =
    now ? "degraded" : chosen.shrunk ? `shrunk to ${width} × ${height}` : "as sent";
}

// Bring the top of the answer on the screen.
function reveal() {
  const { top } = $("status").getBoundingClientRect();
  if (top >= 0 && top < 0.6 * innerHeight) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("status").scrollIntoView({ behavior: still ? "auto" : "smooth" });
}

// Degradations: drawn at once, and answered one at a time.

const answerSoon = latest(answer);

const sliders = Object.fromEntries(KINDS.map((kind) => {
  const about = { min: 0, max: 1, step: 0.05, words: (value) => `${Math.round(100 * value)} %` };
  const made = range(kind, about, (value) => {
    strengths[kind] = value;
    if (chosen) drawDegraded($("input"), chosen.bitmap, strengths, model.config.input);
    answerSoon();
  });
  made.set(0);
  $("degradations").append(made.row);
  return [kind, made];
}));

$("undegrade").addEventListener("click", () => {
  for (const kind of KINDS) sliders[kind].set((strengths[kind] = 0));
  answerSoon();
});

// Cards.

const gallery = new Gallery({ onpick: ({ base64 }) => choose(base64), onsearch: answerSoon });
const latents = new Latents({ onanalyse: choose, onproblem: fail });

const copied = {
  image: () => [embedRequest(model, sent), ...(can(model, "reconstruct") ? [reconstructRequest(model, sent)] : [])],
  vector: () => [vectorRequest(model, [sent])],
  reading: () => probeRequests(model, sent),
  near: () => can(model, "search") ? [searchRequest(model, sent, gallery.options)] : [embedRequest(model, sent),
    ...(can(model, "content") ? [embedRequest(model, sent, { robust: true })] : [])],
  latents: () => [["generate", { model: model.name, latents: [latents.values] }]],
};
for (const [id, requests] of Object.entries(copied)) addCopyRow($(id), () => [requests(), chosen?.name], say);

$("model").addEventListener("change", useModel);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  loadModels();
});
listen(takeFile, (text) => { turn += 1; chosen = null; fail(new Error(text)); });
loadModels();
