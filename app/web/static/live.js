// What this tab wants to hear of, and what it does when it hears of it.
import { Stream } from "./stream.js";

function connect(hear) {
  if (!("SharedWorker" in window)) {
    const stream = new Stream(hear);
    return { watch: (ids) => stream.watch("tab", ids), leave: () => stream.leave("tab") };
  }
  const worker = new SharedWorker(new URL("./stream_worker.js", import.meta.url), { type: "module" });
  worker.port.addEventListener("message", ({ data }) => hear(data));
  worker.port.start();
  return {
    watch: (ids) => worker.port.postMessage({ watch: ids }),
    leave: () => worker.port.postMessage({ leave: true }),
  };
}

// Call `changed` with a set of ids, at most every `everyMs`, and never while the tab is hidden.
export function listen(everyMs, changed, stateChanged) {
  let gathered = new Set();
  let timer = 0;
  let last = 0;

  function deliver() {
    timer = 0;
    if (document.hidden || !gathered.size) return;
    const ids = gathered;
    gathered = new Set();
    last = performance.now();
    changed(ids);
  }

  function plan() {
    timer ||= setTimeout(deliver, Math.max(0, last + everyMs - performance.now()));
  }

  let line = connect(hear);
  let watched = [];
  function hear(message) {
    if (message.state) stateChanged(message.state);
    for (const id of message.changed ?? []) gathered.add(id);
    if (message.changed) plan();
  }
  document.addEventListener("visibilitychange", plan);
  addEventListener("pagehide", () => line.leave());
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    line = connect(hear);
    line.watch(watched);
  });
  return (ids) => {
    watched = ids;
    line.watch(ids);
  };
}
