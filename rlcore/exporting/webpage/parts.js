// What several pages are made of.

export const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

export function make(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function draw(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export const status = (text) => {
  $("status").textContent = text;
};

// A table of names and shares of 1; the largest is marked.
export function bars(table, names, shares) {
  const best = shares.indexOf(Math.max(...shares));
  const rows = names.map((name, k) => {
    const bar = make("div", { style: `width: ${100 * shares[k]}%` });
    const cells = [make("td", {}, name), make("td", {}, bar), make("td", {}, `${(100 * shares[k]).toFixed(1)} %`)];
    return make("tr", k === best ? { class: "best" } : {}, ...cells);
  });
  table.replaceChildren(...rows);
}
