// Connect four against the agent's network and a small search.

import { bars, draw, make, status } from "./parts.js";

const [COLUMNS, ROWS] = [7, 6];
const EXPLORATION = 1.25; // c of puct
const DIRECTIONS = [1n, 7n, 6n, 8n]; // bits between neighbours in a line
const SIMULATIONS = [0, 25, 100, 400]; // 0: the network alone

export function fits([program]) {
  return program.metadata.env?.game === "connect4" && program.has("probabilities", "value") && program.input("obs")?.shape[1] === 2;
}

export const title = () => "Connect four";

// A position is the stones of who is to move and those of the other, a bit each: 7 column + height (Tromp's layout).

const bit = (column, height) => 1n << BigInt(7 * column + height);

const taken = ([mine, theirs]) => mine | theirs;

export const legal = (position) => [...Array(COLUMNS).keys()].filter((column) => !(taken(position) & bit(column, ROWS - 1)));

export function play([mine, theirs], column) {
  const bottom = bit(column, 0);
  const stone = (taken([mine, theirs]) + bottom) & (bottom * 0b111111n); // the carry stops at the first empty cell
  return [theirs, mine | stone];
}

// The bits of the lines that begin in stones.
export function lines(stones) {
  return DIRECTIONS.map((d) => {
    const pairs = stones & (stones >> d);
    return pairs & (pairs >> (2n * d));
  });
}

const hasLine = (stones) => lines(stones).some((begin) => begin !== 0n);

// Whether the last move has won, and whether nobody can move.
const isWon = ([, theirs]) => hasLine(theirs);
const isFull = (position) => legal(position).length === 0;

// Monte-Carlo tree search by puct (Silver et al. 2018), with the network's policy as prior and its value at leaves.
class Node {
  constructor(position) {
    this.position = position;
    this.visits = 0;
    this.total = 0; // of values for who is to move here
    this.edges = null; // column, prior and child of each legal move
  }

  async expand(evaluate) {
    if (isWon(this.position)) return -1;
    if (isFull(this.position)) return 0;
    const { probabilities, value } = await evaluate(this.position);
    this.edges = legal(this.position).map((column) => ({ column, prior: probabilities[column], child: null }));
    return value[0];
  }

  best() {
    const root = Math.sqrt(this.visits);
    const score = ({ prior, child }) => {
      const value = child === null ? 0 : -child.total / child.visits;
      return value + (EXPLORATION * prior * root) / (1 + (child?.visits ?? 0));
    };
    return this.edges.reduce((a, b) => (score(b) > score(a) ? b : a));
  }

  async simulate(evaluate) {
    let value;
    if (this.edges === null) {
      value = await this.expand(evaluate);
    } else {
      const edge = this.best();
      edge.child ??= new Node(play(this.position, edge.column));
      value = -(await edge.child.simulate(evaluate));
    }
    this.visits += 1;
    this.total += value;
    return value;
  }
}

// The share of each column in the search's visits; of no simulations, the network's probabilities. And the value.
export async function search(position, evaluate, simulations) {
  if (simulations === 0) {
    const { probabilities, value } = await evaluate(position);
    return { shares: probabilities, value: value[0] };
  }
  const root = new Node(position);
  for (let k = 0; k <= simulations; k++) await root.simulate(evaluate);
  const shares = Array(COLUMNS).fill(0);
  for (const { column, child } of root.edges) shares[column] = (child?.visits ?? 0) / (root.visits - 1);
  return { shares, value: root.total / root.visits };
}

export async function show(root, [program]) {
  const evaluate = (position) => program.ask({ obs: position });
  const attributes = { id: "board", viewBox: `0 0 ${COLUMNS} ${ROWS}`, role: "group", "aria-label": "board" };
  const board = draw("svg", attributes);
  const choice = make("select", { id: "simulations", "aria-label": "simulations" });
  for (const number of SIMULATIONS) choice.append(make("option", { value: number }, number ? `${number} simulations` : "no search"));
  choice.value = SIMULATIONS[2];
  const table = make("table", { class: "bars", id: "bars" });
  const again = make("button", { id: "new", onclick: () => begin(0) }, "New game");
  const second = make("button", { id: "second", onclick: () => begin(1) }, "Agent begins");
  root.append(board, make("div", { class: "buttons" }, again, second, choice), make("h2", {}, "The agent's choice"), table);

  let position; // of who is to move
  let mover; // 0, who began, or 1
  let person; // 0 or 1
  let game = 0; // counts games, so that an answer that comes too late is dropped

  function begin(side) {
    [position, mover, person] = [[0n, 0n], 0, side];
    game += 1;
    table.replaceChildren();
    next();
  }

  const ended = () => isWon(position) || isFull(position);

  function drawn() {
    const [mine, theirs] = position;
    const winning = isWon(position) ? theirs : 0n;
    const line = lines(winning).reduce((all, begin, k) => {
      for (let n = 0n; n < 4n; n++) all |= begin << (n * DIRECTIONS[k]);
      return all;
    }, 0n);
    const cells = [];
    for (let column = 0; column < COLUMNS; column++) {
      for (let height = 0; height < ROWS; height++) {
        const here = bit(column, height);
        const owner = mine & here ? mover : theirs & here ? 1 - mover : null;
        const fill = owner === null ? "var(--cell)" : owner === 0 ? "var(--first)" : "var(--second)";
        const circle = draw("circle", { cx: column + 0.5, cy: ROWS - height - 0.5, r: 0.44, fill, "data-column": column });
        circle.setAttribute("class", owner === null ? "free playable" : `stone${line & here ? " decisive" : ""}`);
        if (line & here) circle.setAttribute("stroke", "var(--text)");
        circle.setAttribute("stroke-width", 0.08);
        circle.addEventListener("click", () => clicked(column));
        cells.push(circle);
      }
    }
    board.replaceChildren(...cells);
    if (isWon(position)) status(mover === person ? "The agent wins." : "You win.");
    else if (isFull(position)) status("A draw.");
    else status(mover === person ? "Your move." : "The agent is thinking.");
  }

  function clicked(column) {
    if (ended() || mover !== person || !legal(position).includes(column)) return;
    make_move(column);
  }

  function make_move(column) {
    position = play(position, column);
    mover = 1 - mover;
    next();
  }

  async function next() {
    drawn();
    if (ended() || mover === person) return;
    const [asked, before] = [game, position];
    const { shares } = await search(before, evaluate, Number(choice.value));
    if (asked !== game) return;
    const names = shares.map((_, column) => String(column + 1));
    bars(table, names, shares);
    make_move(shares.indexOf(Math.max(...shares)));
  }

  begin(0);
}
