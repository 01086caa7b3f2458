"""Requests a second, latency and memory of `pixmend serve` under clients that ask without pause.

    python benchmarks/serving.py [MODEL] [--seconds 10] [--clients 1 8 32 128] [--methods instant default]

Two servers in processes of their own, one that completes waiting requests together and one that does not (--batch 1), take turns in one
run. Each client asks for one image after another; each answer is compared with what its own request got when it was asked alone, so a
lost or mixed-up answer is seen. A last round asks more than the queue holds: answers must be right or 503. Prints markdown.
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

import numpy as np

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
        f"{options.model}, {options.seconds:g} s a row, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPUs, "
        f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f} at the start\n"
    )
    head = "| method | clients | batch up to | requests/s | p50 ms | p95 ms | p99 ms | images a batch | memory MiB | wrong |"
    print(head + "\n" + "|---" * 10 + "|")
    roomy = ("--max-queue", 2 * max(options.clients))
    with (
        serving(options.model, options.batch, *roomy) as together,
        serving(options.model, 1, *roomy) as apart,
    ):
        for method in options.methods:
            requests = [request_of(path.read_bytes(), method) for path in images]
            alone = {body: ask(together.port, body)[1] for body in requests}
            for count in options.clients:
                for server in (together, apart):
                    row = load(server, requests, alone, count, options.seconds)
                    print(f"| {method} | {count} | {server.batch} |", row, flush=True)
        time.sleep(3)  # a server at rest gives back what it took
        print(f"\nmemory at rest, MiB: {together.idle:.0f} before, {together.memory():.0f} after")
    overload(options, requests, alone)


def overload(options: argparse.Namespace, requests: list[bytes], alone: dict[bytes, bytes]) -> None:
    """Ask more than a queue of 8 holds."""
    with serving(options.model, options.batch, "--max-queue", 8) as server:
        answers = hammer(server, requests, 64, min(5.0, options.seconds))
    told = Counter(status for _, status, _, _ in answers)
    wrong = sum(status == 200 and content != alone[body] for body, status, content, _ in answers)
    print(f"\noverload, 64 clients and a queue of 8: {dict(told)}, {wrong} wrong")


class Process:
    """A server that runs, seen from outside."""

    def __init__(self, process: subprocess.Popen[str], batch: int) -> None:
        self.process, self.batch = process, batch
        address = re.search(r":(\d+)/", process.stdout.readline() if process.stdout else "")
        assert address, "the server did not start"
        self.port = int(address[1])
        self.idle = 0.0

    def metric(self, name: str) -> float:
        """Return a value of /metrics."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])

    def memory(self) -> float:
        """Resident MiB."""
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
    """Return a form with an image and a method."""
    field = f'--x\r\nContent-Disposition: form-data; name="method"\r\n\r\n{method}\r\n'
    file = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return field.encode() + file.encode() + image + b"\r\n--x--\r\n"


def ask(port: int, body: bytes, connection: HTTPConnection | None = None) -> tuple[int, bytes]:
    """Return status and content of an answer."""
    connection = connection or HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/completions", body, _HEADERS)
    answer = connection.getresponse()
    return answer.status, answer.read()


def hammer(server: Process, requests: list[bytes], clients: int, seconds: float) -> list[Answer]:
    """Return (request, status, content, seconds) of every request of so many clients in so long."""
    end = time.monotonic() + seconds

    def client(number: int) -> list[Answer]:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=300)
        done = []
        while time.monotonic() < end or not done:
            body = requests[(number + len(done) * 7) % len(requests)]
            begun = time.monotonic()
            status, content = ask(server.port, body, connection)
            done.append((body, status, content, time.monotonic() - begun))
        connection.close()
        return done

    with ThreadPoolExecutor(clients) as pool:
        return [each for part in pool.map(client, range(clients)) for each in part]


def load(
    server: Process, requests: list[bytes], alone: dict[bytes, bytes], clients: int, seconds: float
) -> str:
    hammer(server, requests, min(clients, 4), seconds / 10)  # warm
    server.idle = server.idle or server.memory()
    batches, images = (server.metric(f"pixmend_batch_size_{kind}") for kind in ("count", "sum"))
    begun = time.monotonic()
    answers = hammer(server, requests, clients, seconds)
    passed = time.monotonic() - begun
    wrong = sum(content != alone[body] for body, _, content, _ in answers)
    p50, p95, p99 = 1000 * np.percentile([each[3] for each in answers], (50, 95, 99))
    size = (server.metric("pixmend_batch_size_sum") - images) / max(
        1, server.metric("pixmend_batch_size_count") - batches
    )
    return f"{len(answers) / passed:.1f} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {size:.1f} | {server.memory():.0f} | {wrong} |"


if __name__ == "__main__":
    main()
