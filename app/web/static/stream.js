// One event stream for any number of tabs. Runs in a shared worker, or in the page where there is none.
const DEBOUNCE_MS = 100;
const AGAIN_MS = 5000;
const WATCHED_MAX = 500;

export class Stream {
  // tell: is called with {changed: [ids]} and {state: "live" | "away"}
  constructor(tell) {
    this.tell = tell;
    this.wanted = new Map(); // ids of jobs by tab
    this.source = null;
    this.address = "";
    this.timer = 0;
  }

  watch(tab, ids) {
    this.wanted.set(tab, ids);
    this.plan(DEBOUNCE_MS);
  }

  leave(tab) {
    this.wanted.delete(tab);
    this.plan(DEBOUNCE_MS);
  }

  plan(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  connect() {
    const ids = [...new Set([...this.wanted.values()].flat())].sort().slice(-WATCHED_MAX);
    const address = `/stream?jobs=${ids.map((id) => id.replace("job_", "")).join(",")}`;
    const open = this.source && this.source.readyState !== EventSource.CLOSED;
    if (open && address === this.address && this.wanted.size) return;
    this.source?.close();
    this.source = null;
    if (!this.wanted.size) return;
    this.address = address;
    const source = (this.source = new EventSource(address));
    source.addEventListener("open", () => this.tell({ state: "live" }));
    source.addEventListener("changed", (event) => this.tell({ changed: JSON.parse(event.data) }));
    source.addEventListener("error", () => {
      this.tell({ state: "away" });
      if (source.readyState === EventSource.CLOSED) this.plan(AGAIN_MS); // refused: it does not come back by itself
    });
  }
}
