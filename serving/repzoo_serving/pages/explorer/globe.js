// A globe of pictures on a canvas: drag it or use the arrow keys to rotate, click a picture to pick it.

const RADIUS = 0.44; // relative to the canvas
const RINGS = [0.5, 0, -0.5]; // heights of the circles around the front pole

export class Globe {
  #canvas;
  #pictures = []; // { image, place: [x, y, z], words }
  #turn = [0, 0]; // rotation to the right and down, in radians
  #lit = -1;
  #drag = null;

  // Calls `onlit(picture or null)` when the user points at a picture, `onpick(picture)` on a pick.
  constructor(canvas, { onlit, onpick }) {
    this.#canvas = canvas;
    this.onlit = onlit;
    this.onpick = onpick;
    canvas.addEventListener("pointerdown", (event) => {
      this.#drag = { x: event.clientX, y: event.clientY, far: 0 };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => {
      if (this.#drag && this.#drag.far < 5 && this.#lit >= 0) onpick(this.#pictures[this.#lit]);
      this.#drag = null;
    });
    canvas.addEventListener("pointercancel", () => { this.#drag = null; });
    canvas.addEventListener("pointerleave", () => this.#light(-1));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Show pictures. The first is drawn at the front pole, and larger. Unless `still`, the globe turns.
  show(pictures, still) {
    this.#pictures = pictures;
    this.#lit = -1;
    if (still) return this.draw();
    still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const start = performance.now();
    const arrive = (now) => {
      const left = still ? 0 : Math.max(0, 1 - (now - start) / 900) ** 3;
      if (this.#drag) return;
      this.#turn = [1.4 * left, 0.5 * left];
      this.draw();
      if (left > 0 && this.#pictures === pictures) requestAnimationFrame(arrive);
    };
    arrive(start);
  }

  #move({ clientX: x, clientY: y, offsetX, offsetY }) {
    if (!this.#drag) return this.#light(this.#at(offsetX, offsetY));
    const [across, down] = [x - this.#drag.x, y - this.#drag.y];
    this.#drag = { x, y, far: this.#drag.far + Math.abs(across) + Math.abs(down) };
    this.#rotate(across / 150, down / 150);
  }

  #key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (ways[event.key]) this.#rotate(...ways[event.key].map((way) => way * 0.2));
    else if (event.key === "Home") this.#rotate(-this.#turn[0], -this.#turn[1]);
    else if (event.key === "Enter" && this.#lit >= 0) this.onpick(this.#pictures[this.#lit]);
    else return;
    event.preventDefault();
    if (event.key === "Enter") return;
    // The keyboard points at the front picture.
    this.#light(this.#seen().at(-1)?.index ?? -1);
  }

  #rotate(across, down) {
    const [x, y] = this.#turn;
    this.#turn = [x + across, Math.max(-1.5, Math.min(1.5, y + down))];
    this.draw();
  }

  #light(index) {
    if (index === this.#lit) return;
    this.#lit = index;
    this.#canvas.style.cursor = index >= 0 ? "pointer" : "grab";
    this.onlit(this.#pictures[index] ?? null);
    this.draw();
  }

  #project([x, y, z]) {
    const [a, b] = this.#turn;
    const [right, depth] = [x * Math.cos(a) + z * Math.sin(a), z * Math.cos(a) - x * Math.sin(a)];
    return [right, y * Math.cos(b) + depth * Math.sin(b), depth * Math.cos(b) - y * Math.sin(b)];
  }

  // Position and size of every picture, the front one last.
  #seen() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const radius = RADIUS * Math.min(width, height);
    const side = Math.min(64, (2.6 * radius) / Math.sqrt(this.#pictures.length || 1));
    return this.#pictures
      .map(({ place }, index) => {
        const [x, y, z] = this.#project(place);
        const size = side * (0.75 + 0.35 * z) * (index ? 1 : 1.45);
        return { index, z, size, x: width / 2 + radius * x, y: height / 2 + radius * y };
      })
      .sort((a, b) => a.z - b.z);
  }

  #at(x, y) {
    const inside = (it) => Math.max(Math.abs(x - it.x), Math.abs(y - it.y)) <= it.size / 2;
    return this.#seen().filter((it) => it.z > -0.2 && inside(it)).at(-1)?.index ?? -1;
  }

  draw() {
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    const dots = devicePixelRatio;
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    const pen = canvas.getContext("2d");
    pen.scale(dots, dots);
    const style = getComputedStyle(canvas);
    const accent = style.getPropertyValue("--accent");
    const air = style.getPropertyValue("--card");
    this.#ball(pen, width, height, style.color);
    for (const { index, x, y, z, size } of this.#seen()) {
      const { image } = this.#pictures[index];
      const marked = index === this.#lit || !index;
      pen.save();
      pen.beginPath();
      pen.roundRect(x - size / 2, y - size / 2, size, size, size / 8);
      pen.strokeStyle = marked ? accent : air;
      pen.lineWidth = marked ? 6 : 3;
      pen.stroke();
      pen.clip();
      pen.imageSmoothingEnabled = (image.naturalWidth ?? image.width) > size;
      pen.imageSmoothingQuality = "high";
      pen.drawImage(image, x - size / 2, y - size / 2, size, size);
      // Pictures at the back fade into the background.
      pen.globalAlpha = Math.max(0, Math.min(0.85, 0.5 - 0.65 * z));
      pen.fillStyle = air;
      pen.fillRect(x - size / 2, y - size / 2, size, size);
      pen.restore();
    }
  }

  #ball(pen, width, height, colour) {
    const radius = RADIUS * Math.min(width, height);
    const [x, y] = [width / 2, height / 2];
    pen.strokeStyle = pen.fillStyle = colour;
    pen.globalAlpha = 0.05;
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fill();
    pen.globalAlpha = 0.14;
    for (const ring of RINGS) {
      const side = Math.sqrt(1 - ring * ring);
      pen.beginPath();
      for (let i = 0; i <= 90; i += 1) {
        const turn = (i * Math.PI) / 45;
        const [right, down] = this.#project([side * Math.cos(turn), side * Math.sin(turn), ring]);
        pen.lineTo(x + radius * right, y + radius * down);
      }
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }
}
