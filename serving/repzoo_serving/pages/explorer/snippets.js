// "Copy as curl / Python / JavaScript": requests of this page as code.
import { $, make } from "./dom.js";

const LONGEST = 20000; // characters of an image in code; longer ones are read from a file
const server = new URL(".", location.href).href.replace(/\/$/, "");

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const isLong = ({ images } = {}) => images?.some((image) => image.length > LONGEST);
const options = ({ images, ...rest }) => rest;

// `requests` are [path, body] without a body for GET, and `names` those of the files of images that are too long for code.
export function curl(requests, names) {
  const key = $("key").value ? ' -H "Authorization: Bearer $REPZOO_API_KEY"' : "";
  return requests.map(([path, body]) => {
    const fields = () => Object.entries(options(body)).map(([field, value]) => (
      `${field}=${typeof value === "string" ? value : JSON.stringify(value)}`));
    const parts = () => [...fields(), ...[names].flat().map((name) => `images=@${name}`)];
    let sent = body ? ` -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(body))}` : "";
    if (isLong(body)) sent = parts().map((part) => ` -F ${quoted(part)}`).join("");
    return `curl ${server}/${path}${key}${sent}`;
  }).join("\n");
}

// The client's method for each operation, and the options that it takes by position.
const METHODS = { embed: "embed_with_uncertainty", probe: "probe" };
const POSITIONAL = ["task", "kind"];

function python(requests, name) {
  const [, { images }] = requests[0];
  const written = (value) => (value === true ? "True" : JSON.stringify(value));
  const lines = requests.map(([path, body]) => {
    const given = Object.entries(options(body))
      .sort(([a], [b]) => POSITIONAL.includes(b) - POSITIONAL.includes(a))
      .map(([field, value]) => (POSITIONAL.includes(field) ? written(value) : `${field}=${written(value)}`));
    return `    print(client.${METHODS[path] ?? path}(${[...(images ? ["image"] : []), ...given].join(", ")}))`;
  });
  const long = isLong({ images });
  return [
    ...(images && !long ? ["import base64", ""] : []),
    "from repzoo_client import Client",
    "",
    ...(images ? [long ? `image = ${JSON.stringify(name)}` : `image = base64.b64decode("${images[0]}")`, ""] : []),
    `with Client("${server}") as client:`,
    ...lines,
    "",
  ].join("\n");
}

function javascript(requests) {
  const key = $("key").value ? ', Authorization: "Bearer YOUR_KEY"' : "";
  const long = isLong(requests[0][1]);
  const head = long
    ? ['const bytes = new Uint8Array(await document.querySelector("input[type=file]").files[0].arrayBuffer());',
      'const image = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));']
    : [];
  return [...head, ...requests.map(([path, body]) => {
    const sent = JSON.stringify(long ? options(body) : body);
    const whole = long ? `${sent.slice(0, -1)},"images":[image]}` : sent;
    return `console.log(await (await fetch("${server}/${path}", {\n` +
      `  method: "POST",\n  headers: { "Content-Type": "application/json"${key} },\n` +
      `  body: JSON.stringify(${whole}),\n})).json());`;
  }), ""].join("\n");
}

const LANGUAGES = { curl, Python: python, JavaScript: javascript };

// Add the buttons to a card. `requests()` returns a list of [path, body], and the name of the image's file.
export function addCopyRow(card, requests, say) {
  card.append(make("div", { className: "copy", role: "group", "aria-label": "copy the request" }, "Copy as ",
    ...Object.entries(LANGUAGES).map(([language, code]) => {
      const button = make("button", { type: "button", className: "quiet" }, language);
      button.addEventListener("click", async () => {
        await copy(code(...requests()));
        button.focus();
        say(`Copied as ${language}.`);
        button.classList.add("done");
        setTimeout(() => button.classList.remove("done"), 1500);
      });
      return button;
    })));
}

async function copy(text) {
  // Browsers offer the clipboard to https and localhost only, and the user can forbid it.
  const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (done) return;
  const area = make("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
