// The cards that show what the model says about an image.
import { Chart } from "./chart.js";
import { $, make } from "./dom.js";

const TOP = 5; // classes of each probe

const number = (value) => value.toPrecision(3);
const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
const norm = (vector) => Math.hypot(...vector) || 1;
const distance = (a, b) => Math.hypot(...a.map((value, i) => value - b[i]));
const chart = new Chart($("chart"));

export function showReconstruction(result) {
  $("reconstruction").hidden = !result;
  if (!result) return;
  $("reconstruction").querySelector("img").src = `data:image/png;base64,${result.images[0]}`;
  $("reconstruction").querySelector("figcaption").textContent = `reconstruction, error ${number(result.error[0])}`;
}

export function showUncertainty(model, value) {
  $("uncertainty").hidden = value === undefined;
  if (value === undefined) return;
  const level = value < 0.1 ? "low" : value < 0.5 ? "medium" : "high";
  $("uncertainty").querySelector("output").value = `${percent(value)}, ${level}`;
  $("uncertainty").querySelector("meter").value = value;
  $("uncertainty").querySelector("p").textContent =
    `The calibrated probability that ${model.config.uncertainty.probability_of}.`;
}

// One table for each task: its most likely classes, with the probabilities of every kind of probe.
export function showProbes(model, results) {
  const tasks = Map.groupBy(model.config.probes.map((probe, i) => ({ ...probe, ...results[i] })), ({ task }) => task);
  const open = new Set([...$("probes").querySelectorAll("details[open]")].map((each) => each.dataset.task));
  $("probes").replaceChildren(...[...tasks].flatMap(([task, probes]) => {
    const [{ classes, activation, probabilities: [first] }] = probes;
    const order = classes.map((_, k) => k).sort((a, b) => first[b] - first[a]);
    const title = activation === "sigmoid" ? `${task}, each yes or no` : task;
    const parts = [table(title, probes, order.slice(0, TOP))];
    if (order.length > TOP) {
      const rest = make("details", { open: open.has(task) },
        make("summary", {}, `${order.length - TOP} more`), table(`${task}, less likely`, probes, order.slice(TOP)));
      rest.dataset.task = task;
      parts.push(rest);
    }
    return parts;
  }));
}

function table(title, probes, rows) {
  const header = make("tr", {}, make("th", { scope: "col", colSpan: 2 }, title),
    ...probes.map(({ kind }) => make("th", { scope: "col" }, kind)));
  return make("table", { className: "probe" }, make("thead", {}, header),
    make("tbody", {}, ...rows.map((k) => {
      const name = probes[0].classes[k].replaceAll("_", " ");
      const bar = make("i", { className: "share" });
      bar.style.width = `${100 * probes[0].probabilities[0][k]}%`;
      return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, bar),
        ...probes.map(({ probabilities: [row] }) => make("td", {}, percent(row[k]))));
    })));
}

// What the probes and the uncertainty say, in a few words.
export function summary(model, { vectors, probes }) {
  const said = model.config.probes.flatMap(({ task, kind, activation, classes }, i) => {
    if (activation !== "softmax" || model.config.probes.find((probe) => probe.task === task).kind !== kind) return [];
    const [row] = probes[i].probabilities;
    return [`${task} ${classes[row.indexOf(Math.max(...row))]}`];
  });
  if (vectors.uncertainty !== undefined) said.push(`uncertainty ${percent(vectors.uncertainty)}`);
  return said.join(", ");
}

// Show the vectors of the image, and where those of the undegraded image (`clean`) lie.
export function showVector(model, vectors, clean, degraded) {
  if (!degraded) chart.reset();
  const content = Boolean(vectors.robust);
  $("answer").classList.toggle("content", content);
  if (content) showContent(model, vectors, clean, degraded);
  else showEmbedding(vectors, clean, degraded);
}

function showContent(model, { robust, spread, plain }, clean, degraded) {
  const unit = model.config.content.unit_length;
  const scaled = (vector) => (unit ? vector.map((value) => value / norm(vector)) : vector);
  const [now, before] = [scaled(plain), scaled(clean.plain)];
  const reach = spread.map((value) => 2 * Math.sqrt(value));
  const shown = chart.show(
    robust.map((mean, i) => ({
      interval: [mean - reach[i], mean + reach[i]], mean: [mean, mean],
      clean: [before[i], before[i]], plain: [now[i], now[i]],
    })),
    (i) => `dimension ${i}: content ${number(robust[i])} ± ${number(reach[i])}, plain ${number(now[i])}`,
  );
  const width = Math.sqrt(sum(spread) / sum(clean.spread));
  heading("Content posterior", robust.length, shown);
  $("vector-words").replaceChildren(...(degraded
    ? [make("b", {}, `${width.toFixed(1)} times as wide`), " as for the undegraded image. From the undegraded image's embedding, " +
      `the plain embedding is ${number(distance(now, before))} away, the content mean ${number(distance(robust, before))}.`]
    : ["Where the embedding should lie without degradation. ",
      make("b", {}, "Degrade the image, and the bars grow.")]));
  legend([["interval", "content posterior, mean ± 2 standard deviations"], ["plain", "plain embedding"], ["clean", "plain embedding, undegraded"]]);
}

function showEmbedding({ plain, variance }, clean, degraded) {
  const deviation = variance?.map(Math.sqrt);
  const shown = chart.show(
    plain.map((mean, i) => ({
      value: [0, mean],
      ...(deviation && { interval: [mean - 2 * deviation[i], mean + 2 * deviation[i]] }),
      clean: [clean.plain[i], clean.plain[i]],
    })),
    (i) => `${i}: ${number(plain[i])}${deviation ? ` ± ${number(deviation[i])}` : ""}`,
  );
  heading(deviation ? "Posterior" : "Embedding", plain.length, shown);
  const moved = degraded ? `Degradation moved it by ${number(distance(plain, clean.plain))}, from a length of ${number(norm(clean.plain))}. ` : "";
  const narrow = deviation ? `Standard deviations from ${number(Math.min(...deviation))} to ${number(Math.max(...deviation))}.` : "";
  $("vector-words").textContent = moved + narrow;
  legend([["value", deviation ? "mean, with ± 2 standard deviations" : "embedding"], ["clean", "undegraded image"]]);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

function heading(title, all, shown) {
  $("vector-title").replaceChildren(title, make("small", {}, shown < all ? ` the first ${shown} of ${all} dimensions` : ` ${all} dimensions`));
  const ends = ["top", "bottom"].map((end) => $("chart").querySelector(`.${end}`).textContent);
  $("chart").setAttribute("aria-label", `${title}, ${shown} dimensions between ${ends[1]} and ${ends[0]}`);
}

function legend(entries) {
  $("legend").replaceChildren(...entries.map(([kind, words]) => make("li", {}, make("i", { className: kind }), words)));
}
