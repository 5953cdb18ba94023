// Shared by all tabs of a browser, so that they hold one connection together.
import { Stream } from "./stream.js";

const ports = new Set();
let state = "";
const stream = new Stream((message) => {
  state = message.state ?? state;
  for (const port of ports) port.postMessage(message);
});

self.addEventListener("connect", (event) => {
  const [port] = event.ports;
  ports.add(port);
  port.addEventListener("message", ({ data }) => {
    if (data.watch) stream.watch(port, data.watch);
    if (data.leave) {
      stream.leave(port);
      ports.delete(port);
    }
  });
  port.start();
  if (state) port.postMessage({ state });
});
