// What every page does: tokens on requests, messages, buttons that post, marks in lists, live parts.
import { listen } from "./live.js";

const EVERY_MS = 2000;
const TIMES_MS = 30_000;
const COMPARED_MAX = 10;
const body = document.body;
const token = document.querySelector('meta[name="csrf-token"]').content;

export function say(text, bad = false) {
  const toast = document.createElement("div");
  toast.textContent = text;
  toast.className = bad ? "bad" : "";
  document.getElementById("toasts").append(toast);
  setTimeout(() => toast.remove(), bad ? 9000 : 5000);
}

// A POST with the token; the answer's JSON. Throws the problem that the service answers.
export async function post(address, content = {}) {
  const answer = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": token, Accept: "application/json" },
    body: JSON.stringify(content),
  });
  const read = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (answer.ok) return read;
  throw Object.assign(new Error(read.detail ?? `the service answered ${answer.status}`), read);
}

export async function ask(question) {
  const dialog = document.getElementById("confirm");
  dialog.querySelector("#confirm-text").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return dialog.returnValue === "yes";
}

body.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRF-Token"] = token;
});
body.addEventListener("htmx:responseError", (event) => {
  const { status, responseText } = event.detail.xhr;
  if (status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  else say(detailOf(responseText) ?? `the service answered ${status}`, true);
});
body.addEventListener("htmx:sendError", () => state("away"));

function detailOf(text) {
  try {
    return JSON.parse(text).detail;
  } catch {
    return null;
  }
}

body.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-post], [data-open], [data-close], [data-bulk]");
  if (!button) return;
  if (button.dataset.open) open(button);
  else if ("close" in button.dataset) button.closest("dialog").close();
  else if (button.dataset.bulk) bulk(button.dataset.bulk);
  else if (!button.dataset.confirm || (await ask(button.dataset.confirm))) send(button);
});

function open(button) {
  const dialog = document.getElementById(button.dataset.open);
  if ("scratch" in button.dataset) dialog.querySelector("select").value = "scratch";
  dialog.showModal();
}

async function send(button) {
  button.disabled = true;
  try {
    const { go } = await post(button.dataset.post);
    if (go) location.assign(go);
    else htmx.trigger(body, "jobs-changed");
  } catch (error) {
    say(error.message, true);
    button.disabled = false;
  }
}

// -- marks in the list of jobs; they outlive its refreshes

const picked = new Set();

const DONE = { cancel: "asked to stop", delete: "deleted", hide: "hidden", show: "in the list again" };
const ASKED = { cancel: "Cancel", delete: "Delete" };

async function bulk(action) {
  const jobs = [...picked];
  if (action === "none") picked.clear();
  else if (action === "compare") location.assign(`/compare?jobs=${jobs.map((id) => id.replace("job_", "")).join(",")}`);
  else if (!ASKED[action] || (await ask(`${ASKED[action]} ${jobs.length} job${jobs.length > 1 ? "s" : ""}?`))) {
    try {
      const { done, refusals } = await post("/jobs/bulk", { action, jobs });
      if (done) say(`${done} ${DONE[action]}`);
      for (const refusal of refusals.slice(0, 3)) say(`${refusal.job.slice(-6)}: ${refusal.detail}`, true);
      picked.clear();
      htmx.trigger(body, "jobs-changed");
    } catch (error) {
      say(error.message, true);
    }
  }
  showPicked();
}

function showPicked() {
  const boxes = [...document.querySelectorAll('input[name="picked"]')];
  for (const box of boxes) box.checked = picked.has(box.value);
  const all = document.getElementById("pick-all");
  if (all) all.checked = boxes.length > 0 && boxes.every((box) => box.checked);
  const bar = document.getElementById("bulk");
  if (!bar) return;
  bar.hidden = picked.size === 0;
  document.getElementById("bulk-count").textContent = `${picked.size} marked`;
  document.getElementById("bulk-compare").disabled = picked.size < 2 || picked.size > COMPARED_MAX;
}

body.addEventListener("change", (event) => {
  const boxes = event.target.id === "pick-all" ? document.querySelectorAll('input[name="picked"]') : [event.target];
  if (event.target.id !== "pick-all" && event.target.name !== "picked") return;
  for (const box of boxes) picked[event.target.checked ? "add" : "delete"](box.value);
  showPicked();
});

// -- live parts

function state(word) {
  const shown = document.getElementById("link-state");
  if (!shown || shown.dataset.state === word) return;
  shown.dataset.state = word;
  shown.textContent = word === "live" ? "live" : "reconnecting";
}

function watched() {
  const listed = document.querySelector("[data-watch]")?.dataset.watch.split(" ").filter(Boolean) ?? [];
  return body.dataset.job ? [body.dataset.job, ...listed] : listed;
}

if (body.dataset.tenant && (body.dataset.job || document.querySelector("[data-watch]"))) {
  const relevant = (id) => (body.dataset.job ? watched().includes(id) : true);
  const watch = listen(
    EVERY_MS,
    (ids) => [...ids].some(relevant) && htmx.trigger(body, "jobs-changed"),
    state,
  );
  watch(watched());
  body.addEventListener("htmx:afterSettle", () => {
    showPicked();
    watch(watched());
  });
}

function ago(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const [unit, length] = units.find(([, each]) => seconds >= each) ?? units[3];
  return `${Math.floor(seconds / length)} ${unit} ago`;
}

function times() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    time.title = at.toLocaleString();
    time.textContent = ago(Math.max(0, (Date.now() - at) / 1000));
  }
}
times();
setInterval(times, TIMES_MS);
body.addEventListener("htmx:afterSettle", times);
