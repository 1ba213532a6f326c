// The ways in which an image reaches the page: a file, a photo, a drop, a paste.
import { drawScaled } from "./degrade.js";
import { $ } from "./dom.js";

// Call `onfile(file)` for each image that the user gives, `onproblem(text)` if it is not a file.
export function listen(onfile, onproblem) {
  for (const [button, input] of [["choose", "file"], ["photograph", "camera"]]) {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      if ($(input).files[0]) onfile($(input).files[0]);
      $(input).value = ""; // so that the same file can be chosen again
    });
  }
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name !== "drop") return;
      const [file] = event.dataTransfer.files;
      if (file) onfile(file);
      else onproblem("What was dropped is not a file. Save the image first, or copy it and paste it here.");
    });
  }
  const paste = (file) => (file ? onfile(file) : onproblem("The clipboard has no image. Copy an image, and paste again."));
  document.addEventListener("paste", (event) => {
    if (!event.target.matches?.("input:not([type=range])")) paste(event.clipboardData.files[0]);
  });
  $("paste").hidden = !navigator.clipboard?.read; // browsers offer it to https and localhost only
  $("paste").addEventListener("click", async () => {
    try {
      paste(await readClipboard());
    } catch {
      onproblem("The browser does not allow this page to read the clipboard. Paste with the keyboard instead.");
    }
  });
}

async function readClipboard() {
  for (const item of await navigator.clipboard.read()) {
    const type = item.types.find((each) => each.startsWith("image/"));
    if (type) return new File([await item.getType(type)], "clipboard", { type });
  }
  return null;
}

const LARGE = 256 * 1024; // bytes
const TYPES = ["image/png", "image/jpeg", "image/webp"]; // what the server reads

// Read a file: { base64, bitmap, name, shrunk }. `bitmap` is null if the browser cannot show it. A photo, or a
// file of another type than the server reads, is redrawn with a shorter side of `side`: { base64, bitmap, shrunk }.
export async function readFile(file, side) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap && (file.size > LARGE || !TYPES.includes(file.type))) {
    const canvas = document.createElement("canvas");
    drawScaled(canvas, bitmap, side);
    return { base64: canvas.toDataURL("image/png").split(",")[1], bitmap: canvas, name: "image.png", shrunk: true };
  }
  const base64 = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
  return { base64, bitmap, name: file.name };
}
