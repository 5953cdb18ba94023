// Charts of series: zoom by dragging, one smoothing and one scale for all, colours of the page.
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
const COLOURS = 10;
const HEIGHT = 210;
const FEW = 40; // steps up to which each has a marker
const MARKER = 4; // pixels
const LONE_MARKER = 9; // of a series of one step, which has no line to see
const FAINT = "40"; // hex of the alpha of unsmoothed values behind smoothed ones

const style = () => getComputedStyle(document.documentElement);
export const colour = (index) => style().getPropertyValue(`--series-${index % COLOURS}`).trim();

export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

// The value at a row or the last one before it: series are not reported at the same steps.
function before(values, row) {
  for (let at = row ?? values.length - 1; at >= 0; at--) if (values[at] !== null && values[at] !== undefined) return values[at];
  return null;
}

// Exponential mean with its bias taken out, as a curve that begins at the first value.
export function smooth(values, weight) {
  let mean = 0;
  let mass = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return value;
    mean = mean * weight + value * (1 - weight);
    mass = mass * weight + (1 - weight);
    return mean / mass;
  });
}

export class Charts {
  // zoomed: is told whether any chart shows less than all
  constructor(root, zoomed) {
    this.root = root;
    this.zoomed = zoomed;
    this.panels = new Map();
    this.weight = 0;
    this.logarithmic = false;
    this.sync = uPlot.sync("charts");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    new ResizeObserver(() => this.resize()).observe(root);
  }

  // charts: [{name, unit, description, lines: [{label, step, value}]}]
  show(charts) {
    for (const chart of charts) {
      const panel = this.panels.get(chart.name) ?? this.add(chart);
      const same = panel.labels === chart.lines.map((line) => line.label).join("\n");
      panel.chart = chart;
      if (same && panel.plot) panel.plot.setData(this.data(chart), !panel.zoomed);
      else this.draw(panel);
      this.describe(panel);
    }
  }

  add(chart) {
    const element = document.createElement("article");
    element.className = "chart";
    element.innerHTML = '<header><h3></h3><span class="muted small"></span></header><div class="plot" role="img"></div>';
    element.querySelector("h3").textContent = chart.name;
    element.querySelector("span").textContent = chart.unit;
    if (chart.description) element.querySelector("h3").title = chart.description;
    this.root.append(element);
    const panel = { chart, element, plot: null, labels: "", zoomed: false };
    this.panels.set(chart.name, panel);
    return panel;
  }

  // Smoothed values in front of the raw ones; one column of steps for all lines.
  data(chart) {
    const joined = uPlot.join(chart.lines.map((line) => [line.step, line.value]));
    const positive = (values) => (this.logarithmic ? values.map((v) => (v > 0 ? v : null)) : values);
    if (!this.weight) return [joined[0], ...joined.slice(1).map(positive)];
    const smoothed = chart.lines.map((line) => [line.step, smooth(line.value, this.weight)]);
    return [joined[0], ...joined.slice(1).map(positive), ...uPlot.join(smoothed).slice(1).map(positive)];
  }

  draw(panel) {
    panel.plot?.destroy();
    panel.labels = panel.chart.lines.map((line) => line.label).join("\n");
    panel.zoomed = false;
    const host = panel.element.querySelector(".plot");
    panel.plot = new uPlot(this.options(panel, host.clientWidth || 360), this.data(panel.chart), host);
  }

  options(panel, width) {
    const { lines } = panel.chart;
    const line = (each, index, faint) => ({
      label: each.label,
      stroke: colour(each.colour ?? index) + (faint ? FAINT : ""),
      width: faint ? 1 : 1.8,
      dash: faint ? [] : DASHES[(each.dash ?? index) % DASHES.length],
      spanGaps: true,
      points: this.markers(each.step.length, faint ? undefined : colour(each.colour ?? index)),
      value: (plot, value, column, row) => short(value ?? before(plot.data[column], row)),
    });
    const axis = { stroke: style().getPropertyValue("--muted").trim(), font: "11px system-ui, sans-serif",
      grid: { stroke: style().getPropertyValue("--grid").trim(), width: 1 }, ticks: { show: false } };
    const series = [{ label: "step" }, ...lines.map((each, index) => line(each, index, this.weight > 0))];
    if (this.weight) series.push(...lines.map((each, index) => line({ ...each, label: `${each.label} smoothed` }, index, false)));
    return {
      width,
      height: HEIGHT,
      series,
      scales: { x: { time: false }, y: { distr: this.logarithmic ? 3 : 1 } },
      axes: [{ ...axis, space: 60, size: 28 }, { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) }],
      cursor: { sync: { key: this.sync.key, scales: ["x", null] }, focus: { prox: 24 }, points: { size: 6 } },
      focus: { alpha: 0.35 },
      legend: { live: true },
      hooks: { setScale: [(plot, scale) => scale === "x" && this.scaled(panel, plot)] },
    };
  }

  markers(steps, fill) {
    return { show: steps < FEW, ...(steps === 1 ? { size: LONE_MARKER, fill } : { size: MARKER }) };
  }

  scaled(panel, plot) {
    const steps = plot.data[0];
    panel.zoomed = steps.length > 1 && (plot.scales.x.min > steps[0] || plot.scales.x.max < steps.at(-1));
    this.zoomed([...this.panels.values()].some((each) => each.zoomed));
  }

  describe(panel) {
    const ends = panel.chart.lines.map((line) => `${line.label} ${short(line.value.at(-1))} at step ${line.step.at(-1)}`);
    panel.element.querySelector(".plot").setAttribute("aria-label", `Curve of ${panel.chart.name}: ${ends.join(", ")}`);
  }

  redraw() {
    for (const panel of this.panels.values()) this.draw(panel);
  }

  resize() {
    for (const { plot, element } of this.panels.values()) {
      const width = element.querySelector(".plot").clientWidth;
      if (plot && width && Math.abs(width - plot.width) > 1) plot.setSize({ width, height: HEIGHT });
    }
  }

  reset() {
    for (const panel of this.panels.values()) {
      panel.zoomed = false;
      panel.plot?.setData(panel.plot.data, true);
    }
    this.zoomed(false);
  }

  set(weight, logarithmic) {
    this.weight = weight;
    this.logarithmic = logarithmic;
    this.redraw();
  }
}

// The controls above the charts; what was chosen is kept in this browser.
export function tools(charts) {
  const smoothing = document.getElementById("smoothing");
  const logarithmic = document.getElementById("log-scale");
  const reset = document.getElementById("reset-zoom");
  const kept = JSON.parse(localStorage.getItem("sextant-charts") ?? "{}");
  smoothing.value = kept.smoothing ?? 0;
  logarithmic.checked = kept.logarithmic ?? false;
  function apply() {
    document.getElementById("smoothing-value").textContent = Number(smoothing.value).toFixed(2);
    localStorage.setItem("sextant-charts", JSON.stringify({ smoothing: smoothing.value, logarithmic: logarithmic.checked }));
    charts.set(Number(smoothing.value), logarithmic.checked);
  }
  smoothing.addEventListener("input", apply);
  logarithmic.addEventListener("change", apply);
  reset.addEventListener("click", () => charts.reset());
  apply();
}
