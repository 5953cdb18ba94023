// One job: its curves and its log grow while it runs; its files are read again when there are more.
import { Charts, tools } from "./charts.js";
import { post } from "./page.js";

const LINES_MAX = 5000;
const APPENDED_MAX = 1500; // points of a series; a longer one is read anew, in ranges
const body = document.body;
const address = `/jobs/${body.dataset.job}`;

// -- curves

const reset = document.getElementById("reset-zoom");
const charts = new Charts(document.getElementById("charts"), (zoomed) => (reset.disabled = !zoomed));
let series = {};
let grouped = [];

async function get(path) {
  const answer = await fetch(address + path, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  return answer.json();
}

const ends = () => Object.values(series).map((each) => each.step.at(-1) ?? -1);
const longest = () => Math.max(0, ...Object.values(series).map((each) => each.step.length));

// Series end at different steps: what comes after the earliest end is read, and what is new is kept.
async function readCurves() {
  const anew = !ends().length || longest() > APPENDED_MAX;
  const from = anew ? 0 : Math.min(...ends()) + 1;
  const read = await get(`/series?from_step=${from}`);
  if (anew) series = read.series;
  else for (const [name, columns] of Object.entries(read.series)) append(name, columns);
  for (const chart of read.charts) merge(chart);
  showCurves();
}

function append(name, { step, value }) {
  const kept = (series[name] ??= { step: [], value: [] });
  const last = kept.step.at(-1) ?? -1;
  const start = step.findIndex((each) => each > last);
  if (start < 0) return;
  kept.step.push(...step.slice(start));
  kept.value.push(...value.slice(start));
}

function merge(chart) {
  const known = grouped.find((each) => each.name === chart.name);
  if (!known) grouped.push(chart);
  else known.names = [...new Set([...known.names, ...chart.names])];
}

function showCurves() {
  const shown = grouped.map((chart) => ({
    ...chart,
    lines: chart.names.filter((name) => series[name]?.step.length).map((name) => ({ label: name, ...series[name] })),
  })).filter((chart) => chart.lines.length);
  document.getElementById("charts").hidden = document.getElementById("tools").hidden = !shown.length;
  document.getElementById("no-charts").hidden = shown.length > 0;
  charts.show(shown);
}

// -- log

const log = document.getElementById("log-text");
const follow = document.getElementById("follow");
let offset = null;
let run = Number(log.dataset.run);

async function readLog() {
  for (let more = true; more; ) {
    const read = await get(`/log?run=${run}${offset === null ? "" : `&offset=${offset}`}`);
    offset = read.offset;
    more = read.more;
    if (read.text) log.append(read.text);
  }
  const lines = log.textContent.split("\n");
  if (lines.length > LINES_MAX) log.textContent = lines.slice(-LINES_MAX).join("\n");
  if (follow.checked) log.scrollTop = log.scrollHeight;
}

document.getElementById("wrap").addEventListener("change", (event) => {
  log.style.whiteSpace = event.target.checked ? "" : "pre";
});

// -- changes

let reading = null;
async function read() {
  reading ??= Promise.all([readCurves(), readLog()]).finally(() => (reading = null));
  await reading.catch(() => {}); // the next change reads again; the header says that the line is away
}

const facts = () => document.getElementById("facts").dataset;
let known = { ...facts() };
body.addEventListener("jobs-changed", read);
body.addEventListener("htmx:afterSettle", (event) => {
  if (event.detail.target.id !== "state") return;
  if (facts().files !== known.files) htmx.trigger(body, "files-changed");
  if (facts().run !== known.run) {
    run = Math.max(1, Number(facts().run));
    offset = null;
    log.textContent = "";
  }
  known = { ...facts() };
});

document.getElementById("retry-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const refused = document.getElementById("retry-refused");
  try {
    const overrides = JSON.parse(event.target.overrides.value || "{}");
    const { go } = await post(event.target.dataset.url, { from: event.target.from.value, overrides });
    location.assign(go);
  } catch (error) {
    refused.hidden = false;
    refused.textContent = [error.message, ...(error.errors ?? []).map((each) => `${each.pointer}: ${each.detail}`)].join("\n");
  }
});

tools(charts);
read();
