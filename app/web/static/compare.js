// Several jobs on the same axes: a colour for each job, a dash for each series of a chart.
import { Charts, tools } from "./charts.js";

const reset = document.getElementById("reset-zoom");
const root = document.getElementById("charts");
const jobs = [...root.querySelectorAll("[data-compared]")].map((each) => ({ id: each.dataset.compared, name: each.dataset.name }));
const charts = new Charts(root, (zoomed) => (reset.disabled = !zoomed));

async function get(job) {
  const answer = await fetch(`/jobs/${job.id}/series`, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  return answer.json();
}

const LETTERS = 28; // of a name in a legend; the table above has the whole

function cut(name) {
  return name.length > LETTERS ? `${name.slice(0, LETTERS / 2 - 1)}…${name.slice(-LETTERS / 2)}` : name;
}

// Jobs whose names look alike are told apart by the end of their ids.
function label(job) {
  const name = cut(job.name);
  const twin = jobs.some((each) => each !== job && cut(each.name) === name);
  return twin ? `${name} ${job.id.slice(-6)}` : name;
}

function joined(reads) {
  const byName = new Map();
  reads.forEach((read, index) => {
    for (const chart of read.charts) {
      const shown = byName.get(chart.name) ?? { ...chart, lines: [] };
      byName.set(chart.name, shown);
      chart.names.forEach((name, dash) => {
        const prefix = label(jobs[index]);
        shown.lines.push({ label: dash ? `${prefix} ${name}` : prefix, colour: index, dash, ...read.series[name] });
      });
    }
  });
  return [...byName.values()];
}

async function read() {
  const shown = joined(await Promise.all(jobs.map(get)));
  root.hidden = document.getElementById("tools").hidden = !shown.length;
  document.getElementById("no-charts").hidden = shown.length > 0;
  charts.show(shown);
}

document.body.addEventListener("jobs-changed", () => read().catch(() => {})); // the next change reads again
tools(charts);
read();
