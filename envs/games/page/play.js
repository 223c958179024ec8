// The page of rlcore play. This tab holds the moves of its game; the server replays them, and thinks.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PLAYERS = ["First", "Second"];
const PERSON = "person"; // in a seat, where otherwise stands the number of an agent
const SLOW = 600; // milliseconds between the moves of two agents
const SHOWN = 4; // moves of the principal variation on the board
const ROWS = 10; // of the table of moves
const MARGIN = 0.12; // around the board, in squares

let facts; // of the game and the agents
let game; // what is kept of this tab: moves, seats, whether agents wait, who analyses
let position; // of these moves
let analysis = null; // of this position, if it was asked for
let hint = null;
let turn = 0; // counts changes, so that answers which come too late are dropped

// The server

async function ask(what, question) {
  const body = question && JSON.stringify(question);
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(`api/${what}`, body ? { method: "POST", headers, body } : {}).catch(() => {
    throw new Error("There is no answer: has rlcore play ended?");
  });
  if (answer.status === 403) throw new Error(await answer.text());
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

const think = (agent, strength) => ask("analysis", { moves: game.moves, seed: game.seed, agent, ...strength });

// What happens

async function start() {
  facts = await ask("game");
  document.title = `${facts.title} · rlcore play`;
  $("title").textContent = facts.title;
  game = kept() ?? fresh();
  makeSeats();
  makeControls();
  changed();
}

function fresh() {
  const agents = facts.agents.map((_, agent) => agent);
  const who = agents.length > 1 ? agents : facts.person === 0 || facts.players === 1 ? [PERSON, 0] : [0, PERSON];
  return {
    of: identity(),
    moves: [],
    seed: newSeed(),
    seats: who.slice(0, facts.players).map((one) => ({ who: one, ...facts.strength })),
    waiting: false,
    analysing: false,
    adviser: 0,
  };
}

// Of what chance does in a game.
const newSeed = () => Math.floor(Math.random() * 2 ** 31);

const identity = () => JSON.stringify([facts.title, facts.agents, facts.strength, facts.person]);

function kept() {
  const found = JSON.parse(sessionStorage.getItem("game"));
  return found?.of === identity() ? found : null;
}

// After every change of the moves, the seats or what is shown: the position, then whoever is to move.
async function changed() {
  const mine = ++turn;
  try {
    const found = await ask("position", { moves: game.moves, seed: game.seed });
    if (mine !== turn) return;
    [position, analysis, hint] = [found, null, null];
    sessionStorage.setItem("game", JSON.stringify(game));
    draw();
    if (position.outcome !== null) return;
    const { who, simulations, temperature } = game.seats[position.player];
    if (who === PERSON || game.waiting) {
      if (game.analysing) show(await think(game.adviser, {}), mine);
    } else {
      const [found] = await Promise.all([think(who, { simulations, temperature }), pause()]);
      if (mine === turn) play(found.action);
    }
  } catch (error) {
    if (mine !== turn) return;
    say(error.message);
    if (position) game.moves = position.moves;
    else if (game.moves.length) {
      game.moves = []; // those that were kept lead nowhere
      changed();
    }
  }
}

const pause = () => new Promise((done) => setTimeout(done, isWatched() ? SLOW : 0));
const isWatched = () => game.seats.every((seat) => seat.who !== PERSON);

function play(action) {
  say("");
  game.moves = [...game.moves, action];
  changed();
}

function clicked(action) {
  if (position.moves.length !== game.moves.length) return; // the answer to the last click is on its way
  if (position.outcome !== null) say("The game has ended.");
  else if (!personMoves()) say("It is not your move.");
  else if (!position.legal.includes(action)) say(`${facts.names[action]} cannot be played now.`);
  else play(action);
}

const personMoves = () => position.outcome === null && (game.waiting || game.seats[position.player].who === PERSON);

function undo() {
  const persons = (number) => game.waiting || isWatched() || game.seats[position.movers[number]].who === PERSON;
  const number = game.moves.map((_, index) => index).findLast(persons);
  if (number === undefined) return say("You have no move to take back.");
  if (isWatched()) game.waiting = true;
  say("");
  game.moves = game.moves.slice(0, number);
  changed();
}

function wait(waiting) {
  game.waiting = waiting;
  changed();
}

async function giveHint() {
  const mine = turn;
  say("Thinking …");
  try {
    const found = await think(game.adviser, {});
    if (mine !== turn) return;
    hint = found;
    draw();
    const [value, share] = [found.value, percent(found.shares[found.action])];
    say(
      `Hint: ${facts.names[found.action]}, ${share}` +
        (value === null ? "." : ` of the visits; expected ${signed(value)}.`),
    );
  } catch (error) {
    say(error.message);
  }
}

function show(found, mine) {
  if (mine !== turn) return;
  analysis = found;
  draw();
}

// The panel

function makeSeats() {
  $("seats").replaceChildren(
    ...game.seats.map((seat, player) => {
      const part = $("seat").content.cloneNode(true).firstElementChild;
      const [disc, who, level, simulations, temperature] = ["disc", "who", "level", "simulations", "temperature"].map(
        (name) => part.querySelector(`.${name}`),
      );
      part.dataset.player = player;
      disc.classList.toggle("second", player === 1);
      disc.title = PLAYERS[player];
      who.append(new Option("You", PERSON), ...facts.agents.map((agent, number) => new Option(agent.name, number)));
      level.append(
        ...Object.keys(facts.levels).map((name) => new Option(`level ${name}`, name)),
        new Option("own", ""),
      );
      const write = () => {
        const isAgent = seat.who !== PERSON;
        who.value = seat.who;
        level.value =
          Object.entries(facts.levels).find(
            ([, one]) => one.simulations === seat.simulations && one.temperature === seat.temperature,
          )?.[0] ?? "";
        simulations.value = seat.simulations ?? "";
        temperature.value = seat.temperature;
        level.hidden = part.querySelector(".strength").hidden = !isAgent;
        simulations.parentElement.hidden = isAgent && !facts.agents[seat.who].searches;
      };
      const change = (values) => {
        Object.assign(seat, values);
        write();
        changed();
      };
      simulations.max = facts.most.simulations;
      temperature.max = facts.most.temperature;
      who.onchange = () => change({ who: who.value === PERSON ? PERSON : Number(who.value) });
      level.onchange = () => change(facts.levels[level.value] ?? {});
      simulations.onchange = () =>
        simulations.reportValidity() &&
        change({ simulations: simulations.value === "" ? null : Number(simulations.value) });
      temperature.onchange = () => temperature.reportValidity() && change({ temperature: Number(temperature.value) });
      write();
      return part;
    }),
  );
}

function makeControls() {
  $("new").onclick = () => {
    say("");
    game.moves = [];
    game.seed = newSeed();
    game.waiting = false;
    changed();
  };
  $("undo").onclick = undo;
  $("hint").onclick = giveHint;
  $("swap").hidden = facts.players === 1;
  $("swap").onclick = () => {
    game.seats.reverse();
    makeSeats();
    changed();
  };
  $("setup").onclick = () => wait(!game.waiting);
  $("analysing").checked = game.analysing;
  $("analysing").onchange = (event) => {
    game.analysing = event.target.checked;
    changed();
  };
  $("adviser").append(...facts.agents.map((agent, number) => new Option(`by ${agent.name}`, number)));
  $("adviser").value = game.adviser;
  $("adviser").onchange = (event) => {
    game.adviser = Number(event.target.value);
    changed();
  };
  $("moves").onchange = (event) => {
    const words = event.target.value.split(/[\s,]+/).filter(Boolean);
    const wrong = words.find((word) => !facts.names.includes(word));
    if (wrong !== undefined) return say(`${wrong} is not a move.`);
    say("");
    game.moves = words.map((word) => facts.names.indexOf(word));
    changed();
  };
}

// What is seen

function draw() {
  drawBoard();
  drawStatus();
  drawAnalysis();
  const names = game.moves.map((action) => facts.names[action]);
  $("record").replaceChildren(
    ...names.map((name, number) => element("li", { class: position.movers[number] ? "second" : "" }, name)),
  );
  $("moves").value = names.join(" ");
  $("line").hidden = !game.waiting;
  $("setup").setAttribute("aria-pressed", game.waiting);
  $("setup").textContent = game.waiting ? (isWatched() ? "Go on" : "Play on") : isWatched() ? "Pause" : "Set up";
  $("hint").disabled = !personMoves();
  $("undo").disabled = !game.moves.length;
}

function drawStatus() {
  const { player, outcome } = position;
  const seat = game.seats[player].who;
  const alone = game.seats.filter((one) => one.who === PERSON).length === 1;
  const title = (number) =>
    alone ? (game.seats[number].who === PERSON ? "You" : facts.agents[game.seats[number].who].name) : PLAYERS[number];
  const disc = (number) => element("span", { class: number ? "disc second" : "disc" });
  if (facts.players === 1 && outcome !== null)
    return $("status").replaceChildren(outcome > 0 ? `Done: ${outcome}` : "The game has ended.");
  if (outcome === 0) return $("status").replaceChildren("A draw.");
  if (outcome !== null) {
    const winner = outcome > 0 ? 0 : 1;
    return $("status").replaceChildren(disc(winner), `${title(winner)} ${title(winner) === "You" ? "win" : "wins"}.`);
  }
  if (game.waiting) return $("status").replaceChildren(disc(player), `${PLAYERS[player]} to move; agents wait`);
  if (seat === PERSON)
    return $("status").replaceChildren(disc(player), alone || facts.players === 1 ? "Your move" : `${PLAYERS[player]} to move`);
  $("status").replaceChildren(
    disc(player),
    element("span", { class: "dots" }, `${facts.agents[seat].name} is thinking`),
  );
}

function drawBoard() {
  const { cells, legal, places, last } = position;
  const byButton = legal.filter((action) => places[action] === null);
  $("others").replaceChildren(
    ...byButton.map((action) => {
      const button = element("button", {}, facts.names[action]);
      button.onclick = () => clicked(action);
      return button;
    }),
  );
  $("text").hidden = cells.length > 0;
  $("text").textContent = position.text;
  const board = $("board");
  if (board.toggleAttribute("hidden", !cells.length)) return;

  const xs = cells.flatMap((cell) => cell.outline.map(([x]) => cell.x + x));
  const ys = cells.flatMap((cell) => cell.outline.map(([, y]) => cell.y + y));
  const [left, top] = [Math.min(...xs) - MARGIN, Math.min(...ys) - MARGIN];
  board.setAttribute("viewBox", [left, top, Math.max(...xs) + MARGIN - left, Math.max(...ys) + MARGIN - top].join(" "));

  const focused = document.activeElement?.dataset?.index;
  const above = svg("g", { class: "above" });
  const ghost = svg("g", { class: "ghost" });
  above.append(ghost);
  const isNew = game.moves.length > (board.dataset.moves ?? 0);
  board.dataset.moves = game.moves.length;
  const outlines = cells.map((cell, index) => {
    const { x, y, action, owner } = cell;
    const corners = cell.outline.map(([dx, dy]) => `${x + inset(dx)},${y + inset(dy)}`).join(" ");
    const shape = svg("polygon", { class: "cell", points: corners, "data-index": index });
    if (owner !== null && cell.filled) shape.classList.add(`of${owner}`);
    else if (owner !== null)
      above.append(
        svg("circle", { class: `of${owner} ${index === last && isNew ? "fresh" : ""}`, cx: x, cy: y, r: 0.4 }),
      );
    if (cell.label) above.append(text(x, y, cell.label, owner === null ? "label" : `label on of${owner}`));
    if (index === last && owner !== null)
      above.append(svg("g", { class: `of${owner}` }, svg("circle", { class: "last", cx: x, cy: y, r: 0.09 })));
    if (cell.decisive) above.append(svg("circle", { class: "decisive", cx: x, cy: y, r: 0.4 }));
    if (action !== null) shape.onclick = () => clicked(action);
    if (personMoves() && legal.includes(action)) {
      const target = places[action];
      shape.classList.add("playable");
      shape.onpointerenter = () => aim(target);
      shape.onpointerleave = () => aim(null);
      if (index === target) {
        for (const [name, value] of Object.entries({ tabindex: 0, role: "button", "aria-label": facts.names[action] }))
          shape.setAttribute(name, value);
        shape.onkeydown = (event) => (event.key === "Enter" || event.key === " ") && clicked(action);
      }
    }
    return shape;
  });
  const aim = (target) => {
    outlines.forEach((shape, index) => shape.classList.toggle("aimed", index === target));
    const cell = cells[target];
    ghost.replaceChildren(
      ...(cell && !cell.label && !cell.filled
        ? [svg("circle", { class: `of${position.player}`, cx: cell.x, cy: cell.y, r: 0.4 })]
        : []),
    );
  };
  board.replaceChildren(arrowHead(), ...outlines, above, advice());
  board.querySelector(`[data-index="${focused}"]`)?.focus();
}

// The outline's stroke, which rounds the corners, goes beyond it.
const inset = (length) => Math.sign(length) * Math.max(Math.abs(length) - 0.1, Math.abs(length) / 3);

// Shares of the moves as discs, the principal variation as stones and arrows; a hint as a ring.
function advice() {
  const { cells, places } = position;
  const layer = svg("g", { class: "above" });
  if (hint && places[hint.action] !== null) {
    const cell = cells[places[hint.action]];
    layer.append(svg("circle", { class: "hinted", cx: cell.x, cy: cell.y, r: 0.4 }));
  }
  if (!analysis) return layer;
  const line = analysis.variation.slice(0, SHOWN);
  const taken = new Set(line.map((move) => move.place));
  for (const [action, share] of Object.entries(analysis.shares)) {
    const place = places[action];
    if (place === null || share < 0.01) continue;
    const { x, y } = cells[place];
    layer.append(svg("circle", { class: "share", cx: x, cy: y, r: 0.4 * Math.sqrt(share) }));
    if (!taken.has(place)) layer.append(text(x, y + 0.33, percent(share), "label beneath"));
  }
  const stops = line
    .filter((move) => move.place !== null)
    .map((move) => ({ ...cells[move.place], player: move.player }));
  stops.slice(1).forEach((to, number) => layer.append(arrow(stops[number], to)));
  stops.forEach(({ x, y, player }, number) => {
    const stone = svg(
      "g",
      { class: `of${player}` },
      svg("circle", { cx: x, cy: y, r: 0.2, opacity: 0.85 }),
      text(x, y, number + 1, "label small on"),
    );
    layer.append(stone);
  });
  return layer;
}

function arrow(from, to) {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const [dx, dy] = [(to.x - from.x) / length, (to.y - from.y) / length];
  return svg("line", {
    class: "arrow",
    x1: from.x + 0.24 * dx,
    y1: from.y + 0.24 * dy,
    x2: to.x - 0.34 * dx,
    y2: to.y - 0.34 * dy,
    "marker-end": "url(#head)",
  });
}

function arrowHead() {
  const marker = svg(
    "marker",
    { id: "head", viewBox: "0 0 4 4", refX: 1.5, refY: 2, markerWidth: 3.5, markerHeight: 3.5, orient: "auto" },
    svg("path", { d: "M0 0L4 2L0 4Z" }),
  );
  return svg("defs", {}, marker);
}

function drawAnalysis() {
  const { player, outcome } = position;
  const value = outcome ?? (analysis?.value != null ? (player === 0 ? analysis.value : -analysis.value) : null);
  $("gauge").hidden = !game.analysing;
  if (value !== null) {
    $("gauge").style.visibility = "visible";
    $("gauge").firstElementChild.style.height = `${50 + 50 * value}%`;
    $("gauge").title = `expected for the first player: ${signed(value)}`;
  }
  if (!game.analysing) $("variation").textContent = "";
  $("bars").hidden = !game.analysing || outcome !== null;
  if (!analysis) return;
  const { shares, variation } = analysis;
  const isBest = (action) => Number(action) === variation[0].action;
  const actions = Object.keys(shares)
    .sort((a, b) => shares[b] - shares[a] || isBest(b) - isBest(a))
    .slice(0, ROWS);
  $("bars").tBodies[0].replaceChildren(
    ...actions.map((action) => {
      const share = element("div", {});
      share.style.width = percent(shares[action]);
      const [visits, value] = [analysis.visits[action] ?? "", analysis.values[action]];
      const columns = [
        facts.names[action],
        element("div", { class: "bar" }, share),
        percent(shares[action]),
        visits,
        value === undefined ? "" : signed(value),
      ];
      return element(
        "tr",
        { class: isBest(action) ? "best" : "" },
        ...columns.map((column) => element("td", {}, column)),
      );
    }),
  );
  const line = variation.map((move) => facts.names[move.action]).join(" ");
  $("variation").textContent =
    analysis.value === null
      ? "The policy alone; it does not search."
      : `Expected ${signed(analysis.value)} for who is to move. Best play: ${line}`;
}

const say = (line) => {
  $("message").textContent = line;
};
const percent = (share) => `${Math.round(100 * share)}%`;
const signed = (value) => `${value <= -0.005 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
const text = (x, y, words, kind) => svg("text", { class: kind, x, y }, words);
const element = (name, attributes, ...inside) => built(document.createElement(name), attributes, inside);
const svg = (name, attributes, ...inside) => built(document.createElementNS(SVG, name), attributes, inside);

function built(node, attributes, inside) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...inside);
  return node;
}

start()
  .catch((error) => say(error.message))
  .finally(() => {
    $("main").hidden = false;
  }); // before, there is nothing to click
