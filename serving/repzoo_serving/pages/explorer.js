// The explorer: one image, and all that the chosen model says of it.
"use strict";

const $ = (id) => document.getElementById(id);
const MOST_SLIDERS = 32;

let models = [];
let asked = 0; // counts images, so that late answers to an earlier one are dropped
let drawn = 0; // the same for generated images
let latents = [];

// Requests.

async function call(path, body) {
  const headers = {};
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  if (response.ok) return answer;
  if (response.status === 401) $("key-form").hidden = false;
  throw new Error(answer.detail);
}

const chosen = () => models.find((model) => model.name === $("model").value);
const can = (operation) => chosen().capabilities.includes(operation);
const say = (text) => { $("status").textContent = text; };

function guarded(work) {
  return async (...given) => {
    try {
      await work(...given);
    } catch (error) {
      say(`Sorry: ${error.message}`);
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
  for (const id of ["posterior", "probes", "latents", "reconstruction", "input"]) $(id).hidden = true;
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
  const answer = await call("generate", { model: chosen().name, n: 1 });
  showInput(`data:image/png;base64,${answer.images[0]}`);
  await analyse(answer.images[0]);
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
  say("Asking ...");
  const [vectors, reconstruction, ...probes] = await Promise.all([
    call(can("posterior") ? "posterior" : "embed", request),
    can("reconstruct") ? call("reconstruct", request) : null,
    ...tasks.map(({ task, kind }) => call("probe", { ...request, task, kind })),
  ]);
  if (turn !== asked) return;
  showVectors(vectors);
  showReconstruction(reconstruction);
  showProbes(tasks, probes);
  if (can("generate")) {
    showSliders((vectors.mean || vectors.embeddings)[0]);
    await generate();
  }
  say(`Answered in ${Math.round(performance.now() - start)} ms.`);
}

function showReconstruction(answer) {
  $("reconstruction").hidden = !answer;
  if (!answer) return;
  $("reconstruction").querySelector("img").src = `data:image/png;base64,${answer.images[0]}`;
  $("reconstruction").querySelector("figcaption").textContent =
    `reconstruction, mean squared error ${answer.error[0].toPrecision(3)}`;
}

// Charts.

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Bars of `values`, with whiskers of `spread` above and below their ends.
function bars(svg, values, spread, words) {
  const [width, height, margin] = [600, 180, 6];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const reach = (sign) => values.map((value, i) => value + sign * (spread ? spread[i] : 0));
  const top = Math.max(0, ...reach(1));
  const bottom = Math.min(0, ...reach(-1));
  const scale = (height - 2 * margin) / (top - bottom || 1);
  const y = (value) => margin + (top - value) * scale;
  const step = width / values.length;
  const groups = values.map((value, i) => {
    const group = element("g", {});
    const title = element("title", {});
    title.textContent = words(i);
    const x = i * step + step * 0.15;
    const side = { x, width: step * 0.7, y: Math.min(y(value), y(0)) };
    group.append(title, element("rect", { ...side, height: Math.abs(y(value) - y(0)) }));
    if (spread) {
      const middle = i * step + step / 2;
      const wide = step * 0.2;
      const [high, low] = [y(value + spread[i]), y(value - spread[i])];
      const path = `M${middle} ${high}V${low}M${middle - wide} ${high}h${2 * wide}` +
        `M${middle - wide} ${low}h${2 * wide}`;
      group.append(element("path", { d: path }));
    }
    return group;
  });
  const zero = element("line", { x1: 0, x2: width, y1: y(0), y2: y(0) });
  const ends = [[top, 12], [bottom, height - 3]].map(([value, height]) => {
    const text = element("text", { x: 3, y: height });
    text.textContent = value ? value.toPrecision(2) : "";
    return text;
  });
  svg.replaceChildren(zero, ...groups, ...ends);
}

function showVectors(answer) {
  const mean = (answer.mean || answer.embeddings)[0];
  const deviation = answer.variance && answer.variance[0].map(Math.sqrt);
  $("posterior").hidden = false;
  $("posterior").querySelector("h2").textContent = deviation
    ? `Posterior: ${mean.length} means, ± 2 standard deviations`
    : `Embedding: ${mean.length} dimensions`;
  const number = (value) => value.toPrecision(4);
  const words = (i) => `${i}: ${number(mean[i])}${deviation ? ` ± ${number(deviation[i])}` : ""}`;
  bars($("means"), mean, deviation && deviation.map((value) => 2 * value), words);
  $("deviations-part").hidden = !deviation;
  if (deviation) bars($("deviations"), deviation, null, words);
  $("uncertainty").textContent = answer.uncertainty
    ? `Uncertainty: ${number(answer.uncertainty[0])}` : "";
}

function showProbes(tasks, answers) {
  $("probes").hidden = !answers.length;
  $("probes").replaceChildren(...answers.flatMap((answer, i) => {
    const heading = document.createElement("h2");
    const label = [answer.labels[0]].flat().join(", ") || "none";
    heading.textContent = `${tasks[i].task} (${tasks[i].kind}): ${label}`;
    const table = document.createElement("table");
    for (const [k, name] of answer.classes.entries()) {
      const row = table.insertRow();
      const meter = document.createElement("meter");
      meter.value = answer.probabilities[0][k];
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

// One request at a time: while one is under way, the newest position waits.
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
  const answer = await call("generate", { model: chosen().name, latents: [latents] });
  if (turn === drawn) $("generated").src = `data:image/png;base64,${answer.images[0]}`;
});

// What the user does.

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
