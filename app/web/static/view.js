// What all viewers do: read the view and parts of files, fill choices, keep them in the address.
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

// Numbers inside of a file: float32, little-endian, count of them from an offset in bytes on.
export async function readFloats(name, offset, count) {
  const answer = await get(name, { Range: `bytes=${offset}-${offset + 4 * count - 1}` });
  const bytes = await answer.arrayBuffer();
  const part = answer.status === 206 ? bytes : bytes.slice(offset, offset + 4 * count);
  if (part.byteLength !== 4 * count) throw new Error(`${name} is shorter than the view says`);
  return new Float32Array(part);
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
