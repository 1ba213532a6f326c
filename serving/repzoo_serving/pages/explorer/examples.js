// Six images to begin with: samples of the model, or drawings if it makes none.
import { call, can } from "./api.js";

const COUNT = 6;
const DRAWN = 48; // samples to choose from

// Return [{ base64, words }].
export async function findExamples(model) {
  if (!can(model, "generate")) return drawings(model.config.input.channels === 1);
  const n = Math.min(DRAWN, model.limits.max_images);
  const { images } = await call("generate", { model: model.name, n, seed: 1 });
  const order = await byVariety(model, images);
  return order.slice(0, COUNT).map((index, i) => ({ base64: images[index], words: `example ${i + 1}` }));
}

// Indices of the images: first the clearest of each class, then the second clearest, and so on.
async function byVariety(model, images) {
  const [probe] = model.config.probes
    .filter(({ activation }) => activation === "softmax")
    .sort((a, b) => b.classes.length - a.classes.length);
  const order = images.map((_, i) => i);
  if (!probe) return order;
  const { task, kind } = probe;
  const { probabilities } = await call("probe", { model: model.name, task, kind, images });
  const best = probabilities.map((row) => Math.max(...row));
  order.sort((a, b) => best[b] - best[a]);
  const seen = new Map();
  const round = order.map((i) => {
    const label = probabilities[i].indexOf(best[i]);
    seen.set(label, (seen.get(label) ?? 0) + 1);
    return [seen.get(label), i];
  });
  return round.sort(([a], [b]) => a - b).map(([, i]) => i);
}

function drawings(grey) {
  return Array.from({ length: COUNT }, (_, i) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 128, height: 128 });
    (grey ? drawDigit : drawFace)(canvas.getContext("2d"), i);
    return { base64: canvas.toDataURL().split(",")[1], words: grey ? `drawn digit ${i}` : `drawn face ${i + 1}` };
  });
}

function drawDigit(pen, i) {
  pen.fillRect(0, 0, 128, 128);
  Object.assign(pen, { fillStyle: "white", font: "100px sans-serif", textAlign: "center", textBaseline: "middle" });
  pen.fillText(`${i}`, 64, 68);
}

// Background, hair, skin, and whether the hair is long.
const FACES = [
  ["#9db8cc", "#2b2019", "#e8b895", true], ["#c9b8a0", "#d9b45b", "#f3cfb3", true],
  ["#8a9a86", "#5b3a21", "#c98f66", false], ["#b5a3b8", "#9a9a9a", "#efc9ad", false],
  ["#a8b4a0", "#15110e", "#7a4b30", true], ["#c4c9d4", "#7a4a24", "#eebf9f", false],
];

function drawFace(pen, i) {
  const [background, hair, skin, long] = FACES[i];
  const oval = (x, y, w, h, colour) => {
    pen.fillStyle = colour;
    pen.beginPath();
    pen.ellipse(x, y, w, h, 0, 0, 2 * Math.PI);
    pen.fill();
  };
  pen.fillStyle = background;
  pen.fillRect(0, 0, 128, 128);
  oval(64, 140, 58, 34, hair === "#15110e" ? "#b8483e" : "#44546b");
  oval(64, long ? 66 : 50, 42, long ? 54 : 40, hair);
  oval(64, 108, 14, 22, skin);
  oval(64, 70, 31, 41, skin);
  if (long) oval(64, 33, 30, 12, hair);
  for (const x of [52, 76]) {
    oval(x, 66, 6, 3.5, "#fff");
    oval(x, 66, 3, 3, "#2a2320");
  }
  Object.assign(pen, { strokeStyle: "#3a2a22", lineWidth: 2.5 });
  for (const x of [52, 76]) {
    pen.beginPath();
    pen.arc(x, 70, 14, 1.3 * Math.PI, 1.7 * Math.PI);
    pen.stroke();
  }
  Object.assign(pen, { strokeStyle: "#a04a48", lineWidth: 3.5 });
  pen.beginPath();
  pen.arc(64, i % 2 ? 84 : 78, i % 2 ? 10 : 14, 0.15 * Math.PI, 0.85 * Math.PI);
  pen.stroke();
}
