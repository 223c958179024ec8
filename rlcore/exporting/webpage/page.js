// Chooses what is shown of an exported agent: the first page that fits it.

import { load } from "./program.js";
import { $ } from "./parts.js";
import * as cartPole from "./cartpole.js";
import * as drawing from "./drawing.js";
import * as connectFour from "./connect_four.js";
import * as plain from "./plain.js";

const PAGES = [cartPole, drawing, connectFour, plain];

function say(error) {
  $("message").textContent = error.message ?? String(error);
}

addEventListener("unhandledrejection", (event) => say(event.reason));
addEventListener("error", (event) => say(event));

const programs = await load();
const page = PAGES.find((one) => one.fits(programs));
const { agent, env, run, version } = programs[0].metadata;
$("title").textContent = page.title(programs);
document.title = `${page.title(programs)} · rlcore`;
const where = env ? ` in ${Object.values(env).join(" ")}` : "";
$("about").textContent = `${agent}${where}${run ? `, run ${run}` : ""}. Exported by rlcore ${version}; it runs in this page alone.`;
await page.show($("page"), programs);
