"""Measure throughput, latency and memory of `pixmend serve` under saturating clients.

    python benchmarks/serving.py [MODEL] [--seconds 10] [--clients 1 8 32 128]
                                 [--methods instant default]

Two servers in their own processes take turns: one batches waiting requests, the other does not
(--batch 1). Each client sends one request after another. Every answer is compared with the answer
to the same request on its own, so that lost or mixed-up answers are noticed. Before each round of
clients this process completes the same images without a server (row "none"): the bound of the
server's rate. On a loaded machine compare CPU ms: they depend less on others. A last round exceeds
the queue: answers must be correct or 503. Prints a markdown table.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

import pixmend
from pixmend.completion import CompletionOptions, Task, find_method, open_mask
from pixmend.images import open_image, png_bytes
from pixmend.models import BUNDLED

Answer = tuple[bytes, int, bytes, float]
_HEADERS = {"Content-Type": "multipart/form-data; boundary=x", "Accept": "image/png"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="characters")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 8, 32, 128))
    parser.add_argument("--methods", nargs="+", default=("instant", "default"))
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    images = sorted((BUNDLED / "characters").rglob("*.png"))[:32]
    print(
        f"{options.model}, {options.seconds:g} s per row, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, "
        f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f} at the start\n"
    )
    head = "| method | clients | maximum batch | requests/s | CPU ms | p50 ms | p95 ms | p99 ms | images/batch | memory MiB | wrong |"
    print(head + "\n" + "|---" * 11 + "|")
    model = pixmend.load(options.model)
    roomy = ("--max-queue", 2 * max(options.clients))
    with (
        serving(options.model, options.batch, *roomy) as together,
        serving(options.model, 1, *roomy) as apart,
    ):
        for method in options.methods:
            requests = [request_of(path.read_bytes(), method) for path in images]
            alone = {body: ask(together.port, body)[1] for body in requests}
            for count in options.clients:
                row = offline(model, images, method, options.batch, options.seconds)
                print(f"| {method} | none | {options.batch} |", row, flush=True)
                for server in (together, apart):
                    row = load(server, requests, alone, count, options.seconds)
                    print(f"| {method} | {count} | {server.batch} |", row, flush=True)
        time.sleep(3)  # an idle server frees memory
        print(f"\nidle memory, MiB: {together.idle:.0f} before, {together.memory():.0f} after")
    overload(options, requests, alone)


def offline(
    model: pixmend.Model, images: list[Path], method: str, batch: int, seconds: float
) -> str:
    """Complete the images again and again, without a server."""
    options = model.for_model(CompletionOptions(find_method(method), batch=batch))
    start, cpu, count = time.monotonic(), time.process_time(), 0
    while not count or time.monotonic() - start < seconds:
        pictures = map(open_image, images)
        tasks = (Task(picture, open_mask("center", picture)) for picture in pictures)
        for completion in model.complete_tasks(tasks, options):
            png_bytes(completion.candidates[0].picture)
            count += 1
    elapsed, cpu = time.monotonic() - start, time.process_time() - cpu
    return f"{count / elapsed:.1f} | {1000 * cpu / count:.1f} |" + " |" * 6


def overload(options: argparse.Namespace, requests: list[bytes], alone: dict[bytes, bytes]) -> None:
    """Send more requests than a queue of 8 holds."""
    with serving(options.model, options.batch, "--max-queue", 8) as server:
        answers = hammer(server, requests, 64, min(5.0, options.seconds))
    statuses = Counter(status for _, status, _, _ in answers)
    wrong = sum(status == 200 and content != alone[body] for body, status, content, _ in answers)
    print(f"\noverload, 64 clients and a queue of 8: {dict(statuses)}, {wrong} wrong")


class Process:
    """A running server, observed through HTTP."""

    def __init__(self, process: subprocess.Popen[str], batch: int) -> None:
        self.process, self.batch = process, batch
        address = re.search(r":(\d+)/", process.stdout.readline() if process.stdout else "")
        assert address, "the server did not start"
        self.port = int(address[1])
        self.idle = 0.0

    def metric(self, name: str) -> float:
        """Return a metric of /metrics."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])

    def memory(self) -> float:
        """Return the resident memory, MiB."""
        return self.metric("process_resident_memory_bytes") / 2**20


@contextmanager
def serving(model: str, batch: int, *more: object) -> Iterator[Process]:
    command = [
        sys.executable,
        "-m",
        "pixmend",
        "serve",
        model,
        "--port",
        0,
        "--batch",
        batch,
        *more,
    ]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    server = Process(process, batch)
    try:
        while True:
            try:
                server.metric("pixmend_waiting")
                break
            except OSError:
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def request_of(image: bytes, method: str) -> bytes:
    """Return a multipart form with an image and a method."""
    field = '--x\r\nContent-Disposition: form-data; name="mask_spec"\r\n\r\ncenter\r\n'
    field += f'--x\r\nContent-Disposition: form-data; name="method"\r\n\r\n{method}\r\n'
    file = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return field.encode() + file.encode() + image + b"\r\n--x--\r\n"


def ask(port: int, body: bytes, connection: HTTPConnection | None = None) -> tuple[int, bytes]:
    """Send a request; return status and content."""
    connection = connection or HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/completions", body, _HEADERS)
    answer = connection.getresponse()
    return answer.status, answer.read()


def hammer(server: Process, requests: list[bytes], clients: int, seconds: float) -> list[Answer]:
    """Return (request, status, content, seconds) of each request that the clients sent."""
    end = time.monotonic() + seconds

    def client(number: int) -> list[Answer]:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=300)
        done = []
        while time.monotonic() < end or not done:
            body = requests[(number + len(done) * 7) % len(requests)]
            start = time.monotonic()
            status, content = ask(server.port, body, connection)
            done.append((body, status, content, time.monotonic() - start))
        connection.close()
        return done

    with ThreadPoolExecutor(clients) as pool:
        return [each for part in pool.map(client, range(clients)) for each in part]


def load(
    server: Process, requests: list[bytes], alone: dict[bytes, bytes], clients: int, seconds: float
) -> str:
    hammer(server, requests, min(clients, 4), seconds / 10)  # warm-up
    server.idle = server.idle or server.memory()
    batches, images = (server.metric(f"pixmend_batch_size_{kind}") for kind in ("count", "sum"))
    start, cpu = time.monotonic(), server.metric("process_cpu_seconds_total")
    answers = hammer(server, requests, clients, seconds)
    elapsed, cpu = time.monotonic() - start, server.metric("process_cpu_seconds_total") - cpu
    wrong = sum(content != alone[body] for body, _, content, _ in answers)
    p50, p95, p99 = 1000 * np.percentile([each[3] for each in answers], (50, 95, 99))
    size = (server.metric("pixmend_batch_size_sum") - images) / max(
        1, server.metric("pixmend_batch_size_count") - batches
    )
    rate = f"{len(answers) / elapsed:.1f} | {1000 * cpu / len(answers):.1f}"
    return f"{rate} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {size:.1f} | {server.memory():.0f} | {wrong} |"


if __name__ == "__main__":
    main()
