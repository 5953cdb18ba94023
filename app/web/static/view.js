// What all viewers do: read the view and parts of files, fill choices, keep them in the address.
import { short } from "./charts.js";

const HEIGHT = 300;
const files = document.body.dataset.view;

export function broken(error) {
  const notice = document.getElementById("broken");
  notice.hidden = false;
  notice.textContent = `The files of this job could not be read: ${error.message}`;
}

export const addressOf = (name) => files + encodeURI(name);

async function get(name, headers = {}) {
  const answer = await fetch(addressOf(name), { headers: { Accept: "*/*", ...headers } });
  if (!answer.ok) throw new Error(`the service answered ${answer.status} for ${name}`);
  return answer;
}

export async function readView() {
  return (await get("view.json")).json();
}

export async function readText(name) {
  return (await get(name)).text();
}

// Bytes inside of a file, count of them from an offset on.
export async function readBytes(name, offset, count) {
  const answer = await get(name, { Range: `bytes=${offset}-${offset + count - 1}` });
  const bytes = await answer.arrayBuffer();
  const part = answer.status === 206 ? bytes : bytes.slice(offset, offset + count);
  if (part.byteLength !== count) throw new Error(`${name} is shorter than the view says`);
  return new Uint8Array(part);
}

// Numbers inside of a file: float32, little-endian, count of them from an offset in bytes on.
export async function readFloats(name, offset, count) {
  return new Float32Array((await readBytes(name, offset, 4 * count)).buffer);
}

// Options of a choice; keeps what was chosen where it is still there. Hidden where there is no choice.
export function offer(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  select.value = options.some(([value]) => String(value) === String(chosen)) ? chosen : (options[0]?.[0] ?? "");
  select.closest(".field").hidden = options.length < 2;
}

export const asked = new URLSearchParams(location.search);

export function keep(choices) {
  history.replaceState(null, "", `?${new URLSearchParams(choices)}`);
}

// A row of a table; numbers stand right.
export function row(cells, shown = false) {
  const made = document.createElement("tr");
  made.className = shown ? "shown" : "";
  for (const [text, numeric] of cells) {
    const cell = made.insertCell();
    cell.textContent = text;
    if (numeric) cell.className = "right number";
  }
  return made;
}

// Arrow keys on a stage: step is [down, across] in cells.
export function arrows(stage, moved) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  stage.addEventListener("keydown", (event) => {
    if (!steps[event.key]) return;
    event.preventDefault();
    moved(steps[event.key]);
  });
}

// A bar of colours with its ends and what it shows.
export function legend(fill, words) {
  const made = document.createElement("div");
  made.className = "bar";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  fill(canvas);
  const text = Object.assign(document.createElement("p"), { className: "small number" });
  text.append(...words.map((each) => Object.assign(document.createElement("span"), { textContent: each })));
  made.append(canvas, text);
  return made;
}

// Lines over a common column of x; more are further options of the chart.
export function chart(root, x, y, lines, data, more = {}) {
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { stroke: ink("--muted"), font: "11px system-ui, sans-serif", grid: { stroke: ink("--grid"), width: 1 }, ticks: { show: false } };
  const value = (_, each) => short(each);
  return new uPlot({
    width: root.clientWidth,
    height: HEIGHT,
    scales: { x: { time: false } },
    series: [{ label: x, value }, ...lines.map((line) => ({ width: 1.6, spanGaps: true, value, ...line }))],
    axes: [{ ...axis, label: x }, { ...axis, label: y, size: 56 }],
    ...more,
  }, data, root);
}
