// Six images to begin with: samples of the model, or drawings if it makes none.
import { call, can } from "./api.js";
import { drawings } from "./drawings.js";

const COUNT = 6;
const DRAWN = 48; // samples to choose from

// Return [{ base64, words }].
export async function findExamples(model) {
  if (!can(model, "generate")) return drawings(model.config);
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
