// CartPole: the agent balances, a click pushes.

import { $, bars, draw, make, status } from "./parts.js";

// As in rlcore/envs/cartpole.py.
const GRAVITY = 9.8; // m / s^2
const MASS_CART = 1.0; // kg
const MASS_POLE = 0.1; // kg
const LENGTH = 0.5; // half the pole's, m
const FORCE = 10.0; // N
const TIME_STEP = 0.02; // seconds
const ANGLE_LIMIT = (12 * 2 * Math.PI) / 360; // radians
const POSITION_LIMIT = 2.4; // m
const PUSH = 0.5; // m / s, what a click adds to the cart's velocity
const PAUSE = 1000; // milliseconds after a fall

export function fits([program]) {
  const { env } = program.metadata;
  const [obs] = program.asked;
  const isCartPole = env?.name === "cartpole" || env?.id?.startsWith("CartPole-v");
  return isCartPole && program.asked.length === 1 && [2, 4].includes(obs.shape[1]) && program.has("action");
}

export const title = () => "CartPole";

// The next state, by the equations of Florian 2007, 23 and 24, and Euler's method.
export function step([x, velocity, angle, spin], action) {
  const total = MASS_CART + MASS_POLE;
  const force = action === 1 ? FORCE : -FORCE;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const temp = (force + MASS_POLE * LENGTH * spin * spin * sin) / total;
  const spinRate = (GRAVITY * sin - cos * temp) / (LENGTH * (4 / 3 - (MASS_POLE * cos * cos) / total));
  const acceleration = temp - (MASS_POLE * LENGTH * spinRate * cos) / total;
  const rates = [velocity, acceleration, spin, spinRate];
  return [x, velocity, angle, spin].map((value, k) => value + TIME_STEP * rates[k]);
}

const start = () => Array.from({ length: 4 }, () => 0.1 * Math.random() - 0.05);

export async function show(root, [program]) {
  const pole = draw("line", { x1: 0, y1: 0, x2: 0, y2: -2 * LENGTH, stroke: "var(--second)", "stroke-width": 0.08 });
  pole.setAttribute("stroke-linecap", "round");
  const cart = draw("g", {}, draw("rect", { x: -0.25, y: 0, width: 0.5, height: 0.25, rx: 0.04, fill: "var(--first)" }), pole);
  const track = draw("line", { x1: -POSITION_LIMIT, x2: POSITION_LIMIT, y1: 0.25, y2: 0.25, stroke: "var(--quiet)" });
  track.setAttribute("stroke-width", 0.02);
  const attributes = { id: "picture", viewBox: "-2.6 -1.3 5.2 1.8", role: "img", "aria-label": "cart and pole" };
  const picture = draw("svg", { ...attributes, class: "playable", onclick: push }, track, cart);
  const pause = make("button", { id: "pause", onclick: toggle }, "Pause");
  const again = make("button", { id: "new", onclick: restart }, "New episode");
  const table = make("table", { class: "bars", id: "bars" });
  const hint = make("span", { class: "quiet" }, "Click left or right of the cart to push it.");
  root.append(picture, make("div", { class: "buttons" }, pause, again, hint), table);

  let state = start();
  let steps = 0;
  let paused = false;

  function push(event) {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width - 0.5) * 5.2;
    state[1] += at < state[0] ? PUSH : -PUSH; // away from the finger
  }

  function toggle() {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
  }

  function restart() {
    state = start();
    steps = 0;
    program.forget();
  }

  function drawn() {
    cart.setAttribute("transform", `translate(${state[0]} 0)`);
    pole.setAttribute("transform", `rotate(${(state[2] * 180) / Math.PI})`);
    root.dataset.steps = steps;
    status(`balanced for ${(steps * TIME_STEP).toFixed(1)} s`);
  }

  const name = program.asked[0].name;
  const seen = () => (program.asked[0].shape[1] === 4 ? state : [state[0], state[2]]);
  for (;;) {
    const due = performance.now() + 1000 * TIME_STEP;
    if (!paused) {
      const answer = await program.ask({ [name]: seen() });
      if (answer.probabilities) bars(table, ["left", "right"], answer.probabilities);
      state = step(state, answer.action[0]);
      steps += 1;
      drawn();
      if (Math.abs(state[0]) > POSITION_LIMIT || Math.abs(state[2]) > ANGLE_LIMIT) {
        status(`fell after ${(steps * TIME_STEP).toFixed(1)} s`);
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
        restart();
      }
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
  }
}
