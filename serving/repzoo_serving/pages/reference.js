// The API reference: forms that send the requests which the page describes.
import { curl } from "./explorer/snippets.js";

const LONGEST = 4000; // characters of a response that are shown
const MOST = 12; // pictures of a response that are shown
const HEADERS = ["Content-Type", "X-Request-ID", "Server-Timing", "Retry-After"];

const key = document.getElementById("key");
const authorization = () => (key.value ? { Authorization: `Bearer ${key.value}` } : {});

const make = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// The base64 of a file.
const encoded = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
  reader.readAsDataURL(file);
});

// The request that a form describes: { path, body, names }. `names` are those of its files. Throws an Error if a
// field is wrong.
async function read(form) {
  let { path } = form.dataset;
  const body = {};
  let names = [];
  for (const { name, type, value, files, dataset } of form.elements) {
    if (!name) continue;
    if (type === "file") {
      names = [...files].map((file) => file.name);
      if (files.length) body[name] = await Promise.all([...files].map(encoded));
      else if (dataset.example) body[name] = [dataset.example];
    } else if (dataset.in === "path") {
      path = path.replace(`{${name}}`, value.split("/").map(encodeURIComponent).join("/"));
    } else if (value !== "") {
      try {
        body[name] = "json" in dataset ? JSON.parse(value) : value;
      } catch {
        throw new Error(`${name} must be JSON, such as [[0.5, -1]].`);
      }
    }
  }
  return { path, body: form.dataset.method === "post" ? body : undefined, names };
}

async function send(form) {
  const reply = form.nextElementSibling;
  const status = make("p", { role: "status" });
  reply.hidden = false;
  reply.replaceChildren(status);
  status.textContent = "Waiting ...";
  try {
    const { path, body } = await read(form);
    const begun = performance.now();
    const response = await fetch(path, {
      method: form.dataset.method.toUpperCase(),
      headers: { ...authorization(), ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
    }).catch(() => { throw new Error("The server does not respond."); });
    const content = await response.blob();
    status.textContent = `${response.status} ${response.statusText}, in ${Math.round(performance.now() - begun)} ms`;
    status.classList.toggle("bad", !response.ok);
    reply.append(
      make("dl", {}, ...HEADERS.filter((name) => response.headers.has(name)).flatMap((name) => (
        [make("dt", {}, name), make("dd", {}, response.headers.get(name))]))),
      ...await show(content),
    );
  } catch (error) {
    status.textContent = error.message;
    status.classList.add("bad");
  }
}

// Elements that show the body of a response.
async function show(content) {
  const picture = (src) => make("img", { src, alt: "an image of the response" });
  if (content.type.startsWith("image/")) return [picture(URL.createObjectURL(content))];
  const text = await content.text();
  if (!content.type.includes("json")) return [cut(text)];
  const result = JSON.parse(text);
  const images = (result.images ?? []).slice(0, MOST).map((base64) => picture(`data:image/png;base64,${base64}`));
  // Each list of numbers or strings is one line.
  const lines = JSON.stringify(result, null, 1).replace(/\[[^[\]{}]*\]/g, (list) => list.replace(/\s*\n\s*/g, " "));
  return [...images, cut(lines)];
}

function cut(text) {
  const rest = text.length > LONGEST ? `\n... ${text.length - LONGEST} more characters` : "";
  return make("pre", { tabIndex: 0 }, text.slice(0, LONGEST) + rest);
}

async function describe(form) {
  try {
    const { path, body, names } = await read(form);
    form.querySelector("pre code").textContent = curl([[path, body]], names);
  } catch { /* It is told when the form is sent. */ }
}

// Offer the models that can do what a form asks for, and a task of the chosen one.
function offer(form, models) {
  const menu = form.querySelector("[data-models]");
  if (menu && models.length) {
    const { operation } = form.dataset;
    const able = models.filter(({ capabilities }) => capabilities.includes(operation));
    menu.replaceChildren(...(able.length ? able : models).map(({ name }) => new Option(name)));
    const task = form.elements.task;
    const choose = () => { task.value = models.find(({ name }) => name === menu.value).config.probes[0]?.task ?? ""; };
    if (task) {
      choose();
      menu.onchange = choose;
    }
  }
  describe(form);
}

async function fill() {
  const response = await fetch("models", { headers: authorization() }).catch(() => null);
  const { models } = response?.ok ? await response.json() : { models: [] };
  for (const form of forms) offer(form, models);
}

const forms = [...document.querySelectorAll("form[data-operation]")];
for (const form of forms) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form);
  });
  form.addEventListener("input", () => describe(form));
}
document.getElementById("key-form").addEventListener("submit", (event) => event.preventDefault());
key.addEventListener("change", fill);
fill();
