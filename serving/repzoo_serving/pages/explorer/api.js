// Requests to this server.
import { $ } from "./dom.js";

export const can = (model, operation) => model.capabilities.includes(operation);

// An error response, or no response.
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export async function call(path, body) {
  const response = await send(path, body);
  const result = await response.json().catch(() => ({ detail: `The server answers with status ${response.status}.` }));
  if (!response.ok) throw new Refused(result.detail, response.status);
  return result;
}

async function send(path, body) {
  const headers = {};
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  for (let attempt = 0; attempt < 3; attempt++) {
    try {
      const method = body ? "POST" : "GET";
      response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    } catch {
      throw new Refused("The server does not respond. Check that it is running, and try again.");
    }
    if (response.status !== 429) break;
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((done) => setTimeout(done, 1000 * Math.min(seconds, 5)));
  }
  return response;
}

// The request for everything that the model's encoder says about images: [path, body].
export function vectorRequest(model, images) {
  const body = { model: model.name, images };
  if (can(model, "posterior")) return ["posterior", body];
  return can(model, "content") ? ["posterior", { ...body, content: true }] : ["embed", body];
}

// Embed images: [{ plain, variance, robust, spread, uncertainty }], vectors as lists of D numbers. All
// but `plain` may be undefined. `robust` and `spread` are the content mean and variance.
export async function embed(model, images) {
  const result = await call(...vectorRequest(model, images));
  return (result.mean || result.embeddings).map((plain, i) => ({
    plain,
    variance: result.variance?.[i],
    robust: result.content_mean?.[i],
    spread: result.content_variance?.[i],
    uncertainty: result.uncertainty?.[i],
  }));
}

export const embedRequest = (model, image, options) => ["embed", { model: model.name, ...options, images: [image] }];
export const reconstructRequest = (model, image) => ["reconstruct", { model: model.name, images: [image] }];

export function probeRequests(model, image) {
  return model.config.probes.map(({ task, kind }) => ["probe", { model: model.name, task, kind, images: [image] }]);
}

// All answers for an image (base64 of a file): { vectors, reconstruction, probes }. If `doubtful`, the rest is
// asked for only if the server can read the image.
export async function analyse(model, image, doubtful) {
  const first = embed(model, [image]);
  if (doubtful) await first;
  const [[vectors], reconstruction, ...probes] = await Promise.all([
    first,
    can(model, "reconstruct") ? call(...reconstructRequest(model, image)) : null,
    ...probeRequests(model, image).map((request) => call(...request)),
  ]);
  return { vectors, reconstruction, probes };
}

// `options` are those of /search, such as { metric: "trusted", abstain: 0.5 }.
export const searchRequest = (model, image, options) => ["search", { model: model.name, k: 12, ...options, images: [image] }];

// Return the images of the server's index that are nearest to an image: [{ base64, words, distance }]. `base64` is null
// if the file cannot be read any more. Return null if the image is too uncertain for the option `abstain`.
export async function search(model, image, options) {
  const { ids: [ids], distances: [distances], abstained: [silent] } = await call(...searchRequest(model, image, options));
  if (silent) return null;
  const pictures = await Promise.all(ids.map(indexed));
  return ids.map((words, i) => ({ words, base64: pictures[i], distance: distances[i] }));
}

const pictures = new Map(); // id -> a promise of its base64, so that each picture is loaded once

function indexed(id) {
  if (!pictures.has(id)) {
    const found = fetchPicture(id);
    found.catch(() => pictures.delete(id));
    pictures.set(id, found);
  }
  return pictures.get(id);
}

async function fetchPicture(id) {
  const response = await send(`index/images/${id.split("/").map(encodeURIComponent).join("/")}`);
  if (!response.ok) {
    if (response.status !== 404) pictures.delete(id); // a busy server may have it the next time
    return null;
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
