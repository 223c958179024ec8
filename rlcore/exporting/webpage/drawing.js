// A classifier of images of 28 x 28: what one draws, and what the agent takes it for.

import { bars, make, status } from "./parts.js";

const SIDE = 28; // pixels of an image
const BOX = 20; // of what is drawn in it, as in MNIST
const SCALE = 10; // pixels of the canvas for one of the image
const PEN = 22; // pixels of the canvas

export function fits([program]) {
  const [image] = program.asked;
  const sides = image.shape.slice(1).filter((side) => side !== 1);
  const isImage = sides.length === 2 && sides.every((side) => side === SIDE) && ["uint8", "float32"].includes(image.dtype);
  return isImage && program.asked.length === 1 && program.has("probabilities") && !program.has("reconstruction");
}

const areDigits = (names) => names === undefined || names.every((name) => /^\d$/.test(name));

export const title = ([program]) => (areDigits(program.metadata.classes) ? "Draw a digit" : "Draw an image");

// The image [SIDE * SIDE], 0 to 255, of what is drawn: in a box of BOX pixels, its centre of mass in the middle.
export function image(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const ink = (x, y) => data[4 * (y * canvas.width + x)];
  let [left, right, top, bottom, mass, mx, my] = [Infinity, -1, Infinity, -1, 0, 0, 0];
  for (let y = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++) {
      const value = ink(x, y);
      if (value === 0) continue;
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
      mass += value;
      mx += value * x;
      my += value * y;
    }
  }
  if (mass === 0) return null;
  const scale = BOX / (Math.max(right - left, bottom - top) + 1);
  const small = make("canvas", { width: SIDE, height: SIDE }).getContext("2d");
  small.imageSmoothingQuality = "high";
  small.setTransform(scale, 0, 0, scale, SIDE / 2 - (scale * mx) / mass, SIDE / 2 - (scale * my) / mass);
  small.drawImage(canvas, 0, 0);
  const pixels = small.getImageData(0, 0, SIDE, SIDE).data;
  return Array.from({ length: SIDE * SIDE }, (_, k) => pixels[4 * k]);
}

export async function show(root, [program]) {
  const canvas = make("canvas", { id: "canvas", width: SIDE * SCALE, height: SIDE * SCALE });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(pen, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  const table = make("table", { class: "bars", id: "bars" });
  const clear = make("button", { id: "clear", onclick: begin }, "Clear");
  root.append(make("div", { class: "beside" }, canvas, table), make("div", { class: "buttons" }, clear));

  const [asked] = program.asked;
  const num = program.metadata.outputs.find((one) => one.name === "probabilities").shape[1];
  const names = program.metadata.classes ?? Array.from({ length: num }, (_, k) => String(k));

  function begin() {
    pen.fillRect(0, 0, canvas.width, canvas.height);
    bars(table, names, names.map(() => 0));
    status("");
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pen.beginPath();
    pen.moveTo(...place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons === 0) return;
    pen.lineTo(...place(event));
    pen.stroke();
  });
  canvas.addEventListener("pointerup", answer);

  async function answer() {
    const pixels = image(canvas);
    if (pixels === null) return;
    const unit = asked.dtype === "uint8" ? 1 : 1 / 255;
    const { probabilities } = await program.ask({ [asked.name]: pixels.map((value) => value * unit) });
    bars(table, names, probabilities);
    status(names[probabilities.indexOf(Math.max(...probabilities))]);
  }

  begin();
}
