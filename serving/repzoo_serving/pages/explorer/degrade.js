// Degradations of an image, as those that content posteriors are fitted to (repzoo_training.degradations).

export const KINDS = ["blur", "noise", "crop", "dark"];

// Draw `bitmap` on `canvas`, degraded by strengths { blur, noise, crop, dark } from 0 to 1, at a size at
// which the model sees it. Without a degradation, it is drawn larger.
export function drawDegraded(canvas, bitmap, strengths, { height, width, channels }) {
  const degraded = KINDS.some((kind) => strengths[kind] > 0);
  const pen = drawScaled(canvas, bitmap, degraded ? Math.max(height, width) : 512, 1 - 0.6 * strengths.crop);
  if (!degraded) return;
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  if (strengths.blur) blur(pixels, (strengths.blur * Math.max(canvas.width, canvas.height)) / 8);
  if (strengths.noise) noise(pixels, 0.5 * 255 * strengths.noise, channels === 1);
  if (strengths.dark) change(pixels, (value) => value - 0.5 * 255 * strengths.dark);
  pen.putImageData(pixels, 0, 0);
}

// Draw the middle `share` of `bitmap` so that the canvas's shorter side is at most `side`. Return the context.
export function drawScaled(canvas, bitmap, side, share = 1) {
  const scale = Math.min(1, side / Math.min(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const [w, h] = [bitmap.width * share, bitmap.height * share];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white"; // the server, too, puts transparent images on white
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, canvas.width, canvas.height);
  return pen;
}

function change({ data }, of) {
  for (let i = 0; i < data.length; i += 1) if (i % 4 < 3) data[i] = of(data[i], i);
}

// Gaussian, first along rows and then along columns. Pixels outside the image are left out of the mean.
function blur({ data, width, height }, sigma) {
  const reach = Math.ceil(3 * sigma);
  const weights = Array.from({ length: reach + 1 }, (_, i) => Math.exp(-0.5 * (i / sigma) ** 2));
  for (const [count, length, next, across] of [[height, width, 4, 4 * width], [width, height, 4 * width, 4]]) {
    for (let line = 0; line < count; line += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        const start = line * across + channel;
        const values = Float32Array.from({ length }, (_, i) => data[start + i * next]);
        for (let i = 0; i < length; i += 1) {
          let [sum, total] = [0, 0];
          for (let j = Math.max(0, i - reach); j <= Math.min(length - 1, i + reach); j += 1) {
            const weight = weights[Math.abs(i - j)];
            sum += weight * values[j];
            total += weight;
          }
          data[start + i * next] = sum / total;
        }
      }
    }
  }
}

// Gaussian, the same at every call, so that a stronger noise is the same noise amplified.
function noise(pixels, deviation, grey) {
  let state = 1;
  const uniform = () => { // mulberry32
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  let drawn = 0;
  change(pixels, (value, i) => {
    if (!grey || i % 4 === 0) drawn = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    return value + deviation * drawn;
  });
}
