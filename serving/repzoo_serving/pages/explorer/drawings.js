// Drawn images, for models that generate none: digits, clothes, faces or things, 128 × 128 pixels.

const SIDE = 128;

const disc = (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
const wheels = ["#1d1d1f", disc(38, 94, 11) + disc(92, 94, 11), "#8b8d91", disc(38, 94, 5) + disc(92, 94, 5)];

// What each shows, its background, and its shapes: a colour and a path in turn.
const CLOTHES = [
  ["T-shirt", "#000", "#c4c4c4", "M44 22Q64 36 84 22L114 40L102 62L92 55V108H36V55L26 62L14 40Z"],
  ["trousers", "#000", "#a8a8a8", "M42 14H86L92 116H71L64 46L57 116H36Z"],
  ["dress", "#000", "#d0d0d0", "M50 12L56 28H72L78 12L83 38L76 56L94 116H34L52 56L45 38Z"],
  ["sneaker", "#000", "#b4b4b4", "M10 58Q24 66 40 54L50 48L82 68Q114 73 118 84V90H10Z", "#eee", "M10 90H118V98H10Z"],
  ["bag", "#000", "#999", "M18 52H110V110H18Z", "#bbb", "M40 52V42Q42 20 64 20Q86 20 88 42V52H79V42Q77 29 64 29Q51 29 49 42V52Z"],
  ["ankle boot", "#000", "#8c8c8c", "M30 18H70V58Q112 72 116 94V100H28Z", "#ccc", "M28 100H116V108H62L60 104H44V110H28Z"],
];

const THINGS = [
  ["airplane", "#8fbbe8", "#c7ccd3", "M62 62L78 36H88L82 62Z", "#e9ecef", "M22 64L8 38H22L40 60H102Q118 62 122 69Q112 77 92 77H34Q22 76 22 64Z",
    "#9aa1ab", "M56 68L80 104H94L82 68Z", "#2d4d75", "M106 63L116 66L106 68Z"],
  ["car", "#b7c2bd", "#5d5f63", "M0 92H128V128H0Z", "#c23a32", "M10 94V76Q12 68 24 66L38 48Q42 44 48 44H78Q86 44 90 49L104 66Q118 68 120 78V94Z",
    "#cfe3f2", "M44 64L52 51H63V64ZM69 51H80L92 64H69Z", ...wheels],
  ["ship", "#b9d3ea", "#3c6c99", "M0 88H128V128H0Z", "#f4f4f2", "M40 54H88V78H40Z", "#d0402f", "M58 34H72V54H58Z",
    "#2b3e55", "M46 61H82V67H46Z", "#7a2f2b", "M10 76H120L104 100H26Z"],
  ["truck", "#b9cfe0", "#66686b", "M0 94H128V128H0Z", "#e8e4da", "M8 36H78V92H8Z", "#2d62a8", "M80 54H102L118 72V92H80Z",
    "#d7e6f3", "M87 60H100L110 73H87Z", ...wheels],
  ["cat", "#7f9a72", "#8a6f55", "M34 62L34 22L60 40ZM94 62L94 22L68 40ZM28 128Q30 92 64 92Q98 92 100 128Z", "#a3866a", disc(64, 66, 34),
    "#f1e6d8", disc(57, 80, 10) + disc(71, 80, 10), "#d9d36a", disc(51, 60, 7) + disc(77, 60, 7), "#16120e", disc(51, 60, 3.5) + disc(77, 60, 3.5),
    "#b0605c", "M59 73H69L64 79Z"],
  ["bird", "#a9cbe6", "#5a4632", "M0 104H128V110H0Z", "#4f6f9d", "M18 84L44 62Q52 40 74 38Q94 36 98 52Q98 84 70 94Q56 98 44 90L14 100Z",
    "#c9743f", "M60 92Q88 86 92 62Q80 60 72 72Z", "#e0a83a", "M97 48L114 53L97 58ZM62 94H66V106H62ZM74 92H78V106H74Z", "#101010", disc(86, 48, 3)],
];

// Background, hair, skin, and whether the hair is long.
const FACES = [
  ["#9db8cc", "#2b2019", "#e8b895", true], ["#c9b8a0", "#d9b45b", "#f3cfb3", true],
  ["#8a9a86", "#5b3a21", "#c98f66", false], ["#b5a3b8", "#9a9a9a", "#efc9ad", false],
  ["#a8b4a0", "#15110e", "#7a4b30", true], ["#c4c9d4", "#7a4a24", "#eebf9f", false],
];

// Return six drawings of what the model's classes are, or else of its channels: [{ base64, words }].
export function drawings({ probes, input }) {
  const classes = probes.flatMap((probe) => probe.classes).join(" ").toLowerCase();
  if (/shirt|sneaker/.test(classes)) return CLOTHES.map(drawShapes);
  if (/male|smiling/.test(classes)) return FACES.map(drawFace);
  return input.channels === 1 ? Array.from({ length: 6 }, drawDigit) : THINGS.map(drawShapes);
}

function drawn(words, background, draw) {
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const pen = canvas.getContext("2d");
  pen.fillStyle = background;
  pen.fillRect(0, 0, SIDE, SIDE);
  draw(pen);
  return { base64: canvas.toDataURL().split(",")[1], words: `drawn ${words}` };
}

function drawShapes([words, background, ...shapes]) {
  return drawn(words, background, (pen) => {
    for (let i = 0; i < shapes.length; i += 2) {
      pen.fillStyle = shapes[i];
      pen.fill(new Path2D(shapes[i + 1]));
    }
  });
}

function drawDigit(_, i) {
  return drawn(`digit ${i}`, "#000", (pen) => {
    Object.assign(pen, { fillStyle: "white", font: "100px sans-serif", textAlign: "center", textBaseline: "middle" });
    pen.fillText(`${i}`, 64, 68);
  });
}

function drawFace([background, hair, skin, long], i) {
  return drawn(`face ${i + 1}`, background, (pen) => {
    const oval = (x, y, w, h, colour) => {
      pen.fillStyle = colour;
      pen.beginPath();
      pen.ellipse(x, y, w, h, 0, 0, 2 * Math.PI);
      pen.fill();
    };
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
  });
}
