// The API reference: fill examples with a model of this server, and send them.

const LONGEST = 4000; // characters of a response that are shown
const server = new URL(".", location.href).href.replace(/\/$/, "");

function headers() {
  const key = document.getElementById("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function fill() {
  const response = await fetch("models", { headers: headers() });
  const { models = [] } = response.ok ? await response.json() : {};
  for (const section of document.querySelectorAll("section:has(form)")) {
    const { operation } = section.querySelector("form").dataset;
    const model = models.find(({ capabilities }) => capabilities.includes(operation)) ?? models[0];
    const put = (text) => text
      .replaceAll("SERVER", server)
      .replaceAll("MODEL", model?.name ?? "MODEL")
      .replaceAll("TASK", model?.config.probes[0]?.task ?? "TASK");
    for (const place of section.querySelectorAll("pre code, textarea")) place.textContent = put(place.textContent);
    section.querySelector("form").dataset.path = section.querySelector("form").dataset.path.replace("{name}", model?.name ?? "MODEL");
  }
}

async function send(form) {
  const result = form.querySelector("pre");
  const body = form.querySelector("textarea")?.value;
  result.hidden = false;
  result.textContent = "Waiting ...";
  try {
    const response = await fetch(form.dataset.path, { method: body ? "POST" : "GET", headers: headers(), body });
    const text = await response.text();
    const isJson = response.headers.get("content-type").includes("json");
    const shown = isJson ? JSON.stringify(JSON.parse(text), null, 1) : text;
    const rest = shown.length > LONGEST ? `\n... ${shown.length - LONGEST} more characters` : "";
    result.textContent = `${response.status} ${response.statusText}\n${shown.slice(0, LONGEST)}${rest}`;
  } catch {
    result.textContent = "The server does not respond.";
  }
}

for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.dataset.operation) send(form);
  });
}
document.getElementById("key").addEventListener("change", fill);
fill();
