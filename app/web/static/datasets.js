// Upload of a dataset: choose or drop a file, guess its format, send it with progress, have it checked.
import { post, say } from "./page.js";

const FORMATS = { npz: "npz", parquet: "parquet", zip: "image_folder", png: "image_folder", jpg: "image_folder", jpeg: "image_folder",
  tif: "elevation", tiff: "elevation", asc: "elevation", npy: "elevation", csv: "series", nc: "netcdf", pt2: "net", safetensors: "net" };
const form = document.getElementById("upload");
const file = document.getElementById("file");
const name = document.getElementById("dataset-name");
const format = document.getElementById("format");
const refused = document.getElementById("upload-refused");
const token = document.querySelector('meta[name="csrf-token"]').content;

function chosen() {
  const [each] = file.files;
  if (!each) return;
  const [, stem, ending] = each.name.match(/^(.*?)(?:\.([A-Za-z0-9]+))?$/);
  document.getElementById("chosen").textContent = `${each.name}, ${(each.size / 2 ** 20).toFixed(1)} MiB`;
  document.getElementById("options").hidden = false;
  name.value = (stem || "data").replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 120);
  format.value = FORMATS[(ending ?? "").toLowerCase()] ?? "image_folder";
  fitting();
}

function fitting() {
  for (const field of form.querySelectorAll("[data-for]")) field.hidden = !field.dataset.for.split(" ").includes(format.value);
}

function options() {
  const set = {};
  for (const input of form.querySelectorAll("[data-option]")) {
    if (!input.closest("[data-for]").hidden && input.value) set[input.dataset.option] = input.type === "number" ? Number(input.value) : input.value;
  }
  return set;
}

// fetch tells nothing of how much was sent
function send(address, content, progressed) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("PUT", address);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-CSRF-Token", token);
    request.upload.addEventListener("progress", (event) => progressed(event.loaded / event.total));
    request.addEventListener("load", () => (request.status < 300 ? done() : failed(problem(request))));
    request.addEventListener("error", () => failed(new Error("the connection broke off")));
    request.send(content);
  });
}

function problem(request) {
  try {
    return new Error(JSON.parse(request.responseText).detail);
  } catch {
    return new Error(`the service answered ${request.status}`);
  }
}

function sending(share) {
  document.querySelector("#sending progress").value = share;
  document.getElementById("sent").textContent = share < 1 ? `${Math.round(100 * share)} % sent` : "sent; a worker checks it";
}

async function upload() {
  const { id } = await post("/datasets", { name: name.value, format: format.value, options: options() });
  document.getElementById("sending").hidden = false;
  try {
    await send(`/datasets/${id}/content`, file.files[0], sending);
    await post(`/datasets/${id}/finalize`);
  } catch (error) {
    await post(`/datasets/${id}/delete`).catch(() => {}); // what was sent is of no use
    throw error;
  }
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  refused.hidden = true;
  try {
    await upload();
    say(`${name.value} is uploaded; a worker checks it`);
    form.reset();
    document.getElementById("options").hidden = true;
    document.getElementById("chosen").textContent = "or drop the next one here";
  } catch (error) {
    refused.hidden = false;
    refused.textContent = error.message;
  }
  document.getElementById("sending").hidden = true;
  button.disabled = false;
  htmx.trigger(document.body, "datasets-changed");
});
file?.addEventListener("change", chosen);
format?.addEventListener("change", fitting);

for (const kind of ["dragover", "dragleave", "drop"]) {
  form?.addEventListener(kind, (event) => {
    event.preventDefault();
    form.classList.toggle("over", kind === "dragover");
    if (kind !== "drop" || !event.dataTransfer.files.length) return;
    file.files = event.dataTransfer.files;
    chosen();
  });
}
