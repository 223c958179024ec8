// Exported programs, run by onnxruntime-web.

import * as ort from "./runtime/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // several need headers that a plain web server does not send

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

export async function load() {
  const found = await (await fetch("programs.json")).json();
  return Promise.all(found.map(async (one) => new Program(one, await ort.InferenceSession.create(one.file))));
}

export const sizeOf = (tensor) => tensor.shape.slice(1).reduce((size, side) => size * side, 1);

class Program {
  constructor(metadata, session) {
    this.metadata = metadata;
    this.session = session;
    this.forget();
  }

  input(name) {
    return this.metadata.inputs.find((one) => one.name === name);
  }

  has(...outputs) {
    return outputs.every((name) => this.metadata.outputs.some((one) => one.name === name));
  }

  // Inputs that are neither noise nor a memory: what whoever asks must give.
  get asked() {
    return this.metadata.inputs.filter((one) => one.name !== "noise" && !this.has(`next_${one.name}`));
  }

  // Begins an episode: the memory is that of a beginning.
  forget() {
    const fields = this.metadata.inputs.filter((one) => this.has(`next_${one.name}`));
    this.memory = Object.fromEntries(fields.map((one) => [one.name, beginning(one)]));
  }

  // One answer to inputs of one row by name, arrays of numbers: the outputs, arrays of numbers. Remembers what is next.
  async ask(given) {
    const values = { ...given, ...this.memory };
    const inputs = {};
    for (const one of this.metadata.inputs) {
      const numbers = one.name === "noise" ? noise(one) : values[one.name];
      inputs[one.name] = tensor(one, numbers);
    }
    const found = await this.session.run(inputs);
    const outputs = {};
    for (const { name } of this.metadata.outputs) outputs[name] = Array.from(found[name].data, Number);
    for (const name of Object.keys(this.memory)) this.memory[name] = outputs[`next_${name}`];
    return outputs;
  }
}

// What `about` says of a memory: a number for all of it, or all of its numbers.
function beginning(one) {
  const first = JSON.parse(one.about.split(" at the beginning")[0]);
  return Array.isArray(first) ? first.flat(Infinity) : first;
}

function tensor(one, numbers) {
  const array = new ARRAYS[one.dtype](sizeOf(one));
  const is64 = array instanceof BigInt64Array;
  const all = Array.isArray(numbers) ? numbers : new Array(array.length).fill(numbers);
  all.forEach((number, k) => {
    array[k] = is64 ? BigInt(number) : number;
  });
  return new ort.Tensor(one.dtype, array, [1, ...one.shape.slice(1)]);
}

function noise(one) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  return Array.from({ length: sizeOf(one) }, one.about.includes("normal") ? normal : Math.random);
}
