// The form of a new job: gathers the spec, has it checked while one types, shows refusals at their fields.
import { post, say } from "./page.js";

const WAIT_MS = 350;
const form = document.getElementById("new-job");
const verdict = document.getElementById("verdict");
const submit = document.getElementById("submit");
let latest = 0;
let timer = 0;

const readers = {
  number: Number,
  truth: (text) => text === "true",
  choice: loose,
  value: loose,
  json: (text) => JSON.parse(text),
  artifact: (text) => {
    if (text.startsWith("model:")) return text;
    const [job, ...name] = text.split("/");
    return { job, artifact: name.join("/") };
  },
};

// JSON where it is some, else the text itself
function loose(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function put(target, path, value) {
  const [name, ...rest] = path;
  if (rest.length) put((target[name] ??= {}), rest, value);
  else target[name] = value;
}

// The body of the request; throws {errors} for a field that is no JSON.
function gather() {
  const spec = { kind: form.dataset.kind };
  for (const input of form.querySelectorAll("[data-pointer]")) {
    const text = input.value.trim();
    if (!text && !input.validity.badInput) continue;
    const pointer = input.dataset.pointer;
    if (input.validity.badInput) throw { errors: [{ pointer: `/spec${pointer}`, detail: "this is no number" }] };
    try {
      put(spec, pointer.slice(1).split("/"), (readers[input.dataset.form] ?? String)(text));
    } catch (error) {
      throw { errors: [{ pointer: `/spec${pointer}`, detail: `this is no JSON: ${error.message}` }] };
    }
  }
  document.getElementById("as-json").textContent = JSON.stringify(spec, null, 2);
  return { spec, name: document.getElementById("name").value.trim() || null, resources: { device: document.getElementById("device").value } };
}

function clear() {
  for (const refusal of form.querySelectorAll(".refusal")) refusal.hidden = true;
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

// At the field itself, or at the nearest group around it; false where there is none.
function showAt({ pointer = "", detail }) {
  for (let at = pointer.replace(/^\/spec/, ""); at; at = at.slice(0, at.lastIndexOf("/"))) {
    const field = form.querySelector(`[data-field="${CSS.escape(at)}"]`);
    if (!field) continue;
    const refusal = field.querySelector(":scope > .refusal");
    refusal.textContent = detail;
    refusal.hidden = false;
    field.querySelector(":scope > [data-pointer]")?.setAttribute("aria-invalid", "true");
    for (let around = field.closest("details"); around; around = around.parentElement.closest("details")) around.open = true;
    return true;
  }
  return false;
}

function line(text, className = "") {
  const made = document.createElement("p");
  made.textContent = text;
  made.className = className;
  return made;
}

function refuse(error) {
  const errors = error.errors ?? [];
  const elsewhere = errors.filter((each) => !showAt(each)).map((each) => line(`${each.pointer} ${each.detail}`));
  const count = `${errors.length} field${errors.length === 1 ? "" : "s"} to mend`;
  verdict.replaceChildren(line(errors.length ? count : error.message, "status failed"), ...elsewhere);
  submit.disabled = true;
}

function accept({ estimate, queue, warnings }) {
  const facts = [["Queue", queue]];
  if (estimate.total_steps) facts.push(["Steps", estimate.total_steps]);
  if (estimate.seconds) facts.push(["Seconds, about", Math.round(estimate.seconds)]);
  for (const [name, value] of Object.entries(estimate.details ?? {})) if (value !== null) facts.push([name, value]);
  const list = document.createElement("dl");
  list.className = "facts";
  for (const [name, value] of facts) {
    const pair = document.createElement("div");
    pair.append(document.createElement("dt"), document.createElement("dd"));
    pair.firstChild.textContent = name;
    pair.lastChild.textContent = typeof value === "number" ? Number(value.toPrecision(4)) : value;
    list.append(pair);
  }
  verdict.replaceChildren(line("Can be submitted", "status succeeded"), list, ...warnings.map((text) => line(text, "notice warn")));
  submit.disabled = false;
}

async function check() {
  const turn = ++latest;
  try {
    const answer = await post("/new/check", gather());
    if (turn !== latest) return;
    clear();
    accept(answer);
  } catch (error) {
    if (turn !== latest) return;
    clear();
    refuse(error);
  }
}

form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(check, WAIT_MS);
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  submit.disabled = true;
  try {
    const { go } = await post("/new", gather());
    location.assign(go);
  } catch (error) {
    clear();
    refuse(error);
    say("The job was refused; see the fields that are marked.", true);
  }
});
check();
