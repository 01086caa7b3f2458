"""A server under attack: honest clients are answered, memory, log and time stay bounded."""

import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np

from pixmend.images import encode_png
from pixmend.models import BUNDLED
from tools.prove.tally import Row, Scale, counted

__all__ = ["ATTACKS", "Target", "serving", "siege"]

FILES = 1024  # of the server process
SOCKETS = 1100
DEADLINE, DRAIN = 10.0, 5.0  # seconds
MEMORY_MIB, LOG_BYTES = 1536, 2_000_000
LATE = 5.0  # seconds that a loaded machine may add


def siege(scale: Scale, folder: Path) -> list[Row]:
    """Attack a server in each way, then end it with SIGTERM in the middle of work."""
    del scale, folder
    # The attacker's sockets are files of this process.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rows, deadlines = [], ("--deadline", f"{DEADLINE:g}", "--drain", f"{DRAIN:g}")
    for name, attack in ATTACKS.items():
        with counted(f"serve: {name}") as row, serving(*deadlines) as target, ExitStack() as held:
            before = target.memory()
            attack(target, held)
            end = time.monotonic() + DEADLINE + LATE
            while time.monotonic() < end:
                _ask(target, row)
            grown = target.peak() - before
            row.most("MiB grown", round(grown))
            row.most("bytes of log", target.log.tell())
            row.expect(grown < MEMORY_MIB, f"grew by {grown:.0f} MiB")
            row.expect(target.log.tell() < LOG_BYTES, f"{target.log.tell():,} bytes of log")
            target.process.terminate()
            begun = time.monotonic()
            try:
                target.process.wait(DRAIN + LATE)
            except subprocess.TimeoutExpired:
                row.expect(False, f"SIGTERM is ignored past the drain of {DRAIN:g} s")
            row.most("seconds to end", round(time.monotonic() - begun, 1))
        rows.append(row)
    return rows


@dataclass
class Target:
    """A server process, its port and its log."""

    process: subprocess.Popen[str]
    port: int
    log: tempfile._TemporaryFileWrapper  # type: ignore[type-arg]

    def memory(self) -> float:
        return self._status("VmRSS")

    def peak(self) -> float:
        return self._status("VmHWM")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE + LATE)

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024


def _ask(target: Target, row: Row) -> None:
    """Ask for health and for a completion: each is answered or refused in time."""
    image = next((BUNDLED / "characters").rglob("*.png")).read_bytes()
    for method, path, body in (
        ("GET", "/healthz", b""),
        ("POST", "/v1/completions", _form(image, mask_spec="center", method="instant")),
    ):
        begun = time.monotonic()
        connection = HTTPConnection("127.0.0.1", target.port, timeout=DEADLINE + LATE)
        try:
            connection.request(method, path, body, _HEADERS)
            answer = connection.getresponse()
            answer.read()
            row.note(f"{path} {answer.status}")
            right = answer.status == 200 or (method == "POST" and answer.status == 503)
            row.expect(right, f"{path}: status {answer.status}")
        except (OSError, HTTPException) as error:
            row.note(f"{path} unanswered")
            row.expect(False, f"{path}: {error!r}")
        finally:
            connection.close()
        row.most(f"seconds {path}", round(time.monotonic() - begun, 1))
    time.sleep(0.2)


def _thin_masks(target: Target, held: ExitStack) -> None:
    for _ in range(4):
        connection = held.enter_context(target.connect())
        path = "/v1/masks/strokes:0.8?width=4000000&height=1"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def _large_masks(target: Target, held: ExitStack) -> None:
    for seed in range(8):
        connection = held.enter_context(target.connect())
        path = f"/v1/masks/strokes:0.8?width=2000&height=2000&seed={seed}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def _many_windows(target: Target, held: ExitStack) -> None:
    """Send windows within the bound of work and above it; the clients leave at once."""
    for side in (1000, 400, 200):
        image = _noise(side, side, 1)
        body = _form(image, mask_spec="random:0.02", view="window", candidates="16")
        _send(target, held, body)
        with target.connect() as connection:
            connection.sendall(_request("/v1/completions", body))


def _large_images(target: Target, held: ExitStack) -> None:
    body = _form(_noise(2000, 2000, 4), mask_spec="center", candidates="16", method="instant")
    for _ in range(4):
        _send(target, held, body)
    body = _form(_noise(2000, 2000, 3), mask_spec="center", candidates="8", method="instant")
    for _ in range(4):
        _send(target, held, body)


def _half_heads(target: Target, held: ExitStack) -> None:
    for _ in range(SOCKETS):
        connection = held.enter_context(target.connect())
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")


def _no_readers(target: Target, held: ExitStack) -> None:
    body = _form(_noise(900, 900, 3), mask_spec="center", candidates="4", method="instant")
    for number in range(48):
        path = "/v1/completions/stream" if number < 8 else "/v1/completions"
        _send(target, held, body, path)


ATTACKS = {
    "masks of thin images": _thin_masks,
    "masks of large images": _large_masks,
    "thousands of windows, and the clients leave": _many_windows,
    "images of 4 million pixels with 16 candidates": _large_images,
    f"{SOCKETS:,} sockets with half a head, {FILES:,} files": _half_heads,
    "8 streams and 40 clients that never read": _no_readers,
}


def _send(target: Target, held: ExitStack, body: bytes, path: str = "/v1/completions") -> None:
    """Send a request from a thread that never reads."""
    connection = held.enter_context(target.connect())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def send() -> None:
        with suppress(OSError):  # refused before all was sent
            connection.sendall(_request(path, body))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(1)


@contextmanager
def serving(*options: str) -> Iterator[Target]:
    """Run a server that may open few files, until its model is ready; kill it after the block."""
    command = [sys.executable, "-m", "pixmend", "serve", "characters", "--port", "0", *options]
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(
            ["/bin/sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh", *command],
            stdout=subprocess.PIPE, stderr=log, text=True,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            address = re.search(r":(\d+)/", process.stdout.readline())
            assert address, "the server did not start"
            target = Target(process, int(address[1]), log)
            connection = HTTPConnection("127.0.0.1", target.port, timeout=60)
            connection.request("GET", "/healthz")  # answered once the models are ready
            connection.getresponse().read()
            connection.close()
            yield target
        finally:
            process.kill()


_HEADERS = {"Content-Type": "multipart/form-data; boundary=x"}


def _form(image: bytes, **fields: str) -> bytes:
    part = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    texts = [part.format(name, "") + value + "\r\n" for name, value in fields.items()]
    file = part.format("image", '; filename="a.png"')
    return "".join([*texts, file]).encode() + image + b"\r\n--x--\r\n"


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: {_HEADERS['Content-Type']}\r\n\r\n".encode() + body


def _noise(height: int, width: int, channels: int) -> bytes:
    generator = np.random.default_rng(0)
    # Of 16 grey levels, so that 4 million pixels fit into a request.
    pixels = generator.integers(0, 16, (height, width, channels), np.uint8) * np.uint8(16)
    return encode_png(pixels, quick=True)
