// Any agent: its inputs as fields, its outputs as numbers.

import { make, status } from "./parts.js";
import { sizeOf } from "./program.js";

const MOST_FIELDS = 24; // numbers of an input that have a field each; more share one
const DIGITS = 6;

export const fits = () => true;

export const title = ([program]) => program.metadata.run ?? program.metadata.agent;

export async function show(root, programs) {
  for (const program of programs) root.append(...section(program));
  status(programs.length === 1 ? "" : `${programs.length} programs`);
}

function section(program) {
  const readers = {};
  const inputs = program.asked.flatMap((one) => {
    const [fields, read] = sizeOf(one) <= MOST_FIELDS ? separate(one) : together(one);
    readers[one.name] = read;
    return [head(one), fields];
  });
  const outputs = program.metadata.outputs.map((one) => [one, make("output", { name: one.name })]);
  const run = make("button", { class: "run", onclick: ask }, "Run");
  const forget = make("button", { class: "forget", onclick: () => program.forget() }, "New episode");
  const buttons = Object.keys(program.memory).length ? [run, forget] : [run];

  async function ask() {
    const given = Object.fromEntries(Object.entries(readers).map(([name, read]) => [name, read()]));
    const found = await program.ask(given);
    for (const [one, output] of outputs) output.textContent = found[one.name].map(shown).join(", ");
  }

  const results = outputs.flatMap(([one, output]) => [head(one), output]);
  return [make("h2", {}, program.metadata.program), ...inputs, make("div", { class: "buttons" }, ...buttons), ...results];
}

function head(one) {
  const shape = one.shape.slice(1).join(" × ") || "one number";
  return make("p", { class: "quiet" }, `${one.name}: ${one.dtype}, ${shape}${one.about ? `, ${one.about}` : ""}`);
}

const shown = (number) => (Number.isInteger(number) ? String(number) : number.toPrecision(DIGITS));

function separate(one) {
  const fields = Array.from({ length: sizeOf(one) }, (_, k) =>
    make("input", { type: "number", step: "any", value: 0, "aria-label": `${one.name} ${k}` }),
  );
  return [make("div", { class: "numbers" }, ...fields), () => fields.map((field) => whole(one, Number(field.value)))];
}

function together(one) {
  const field = make("textarea", { rows: 3, "aria-label": one.name, placeholder: "numbers, separated by commas" });
  return [field, read];

  function read() {
    const numbers = field.value.split(/[\s,]+/).filter(Boolean).map(Number);
    const size = sizeOf(one);
    if (numbers.length === 0) return 0;
    if (numbers.length !== size || numbers.some(Number.isNaN)) throw new Error(`${one.name}: ${size} numbers are asked for.`);
    return numbers.map((number) => whole(one, number));
  }
}

const whole = (one, number) => (one.dtype.startsWith("float") ? number : Math.round(number));
