"""A server under mixed load with faults: no wrong answer, no server error, constant memory and files."""

import contextlib
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np

import pixmend
from pixmend.completion import CompletionOptions, Task, find_method, open_mask
from pixmend.images import decode_image, png_bytes
from pixmend.models import BUNDLED
from tools.prove.tally import Row, Scale, counted

__all__ = ["GROWTH_MIB", "soak"]

GROWTH_MIB = 64.0  # growth of resident memory from the second fifth of the time to the last
_HEADERS = {"Content-Type": "multipart/form-data; boundary=x", "Accept": "image/png"}
_METHODS = ("instant", "instant", "instant", "default")
_STEPS = 4  # of the searches
_DEADLINE = 60  # seconds


def soak(scale: Scale, folder: Path) -> list[Row]:
    """Run the server under load for the given minutes."""
    del folder
    what = f"serve: {scale.soak_minutes:g} minutes, {scale.clients} clients with faults"
    with counted(what) as row, _serving() as port_and_pid:
        _Load(*port_and_pid, row, scale.seed).run(60 * scale.soak_minutes, scale.clients)
    return [row]


class _Load:
    """Clients of every kind, and their observations."""

    def __init__(self, port: int, pid: int, row: Row, seed: int) -> None:
        self.port, self.pid, self.row, self.seed = port, pid, row, seed
        self.lock = threading.Lock()
        images = sorted((BUNDLED / "characters").rglob("*.png"))[::20]
        requests = [(path.read_bytes(), method) for path in images for method in _METHODS]
        self.requests = {_form(*request): request for request in requests}
        self.bodies = [_form(*request) for request in requests]
        self.alone: dict[bytes, bytes] = {}  # request -> its right answer
        self.compared = 0  # answers, with those cut
        self.cut: list[tuple[bytes, bytes]] = []  # requests and answers that ended at the deadline
        self.seconds: list[float] = []  # of each right answer to an honest client

    def run(self, seconds: float, clients: int) -> None:
        """Complete each image without the server, let the clients send them until the time is up, then some once more."""
        self.model = pixmend.load("characters", device="cpu")
        self.alone = {body: self._completed(body) for body in self.requests}
        for body in self.bodies[:4]:
            self._ask(body)  # the first look-up fills a cache of retrieval images: no growth
        end = time.monotonic() + seconds
        kinds: list[Callable[[random.Random], str]] = [
            *([self._honest] * 3), self._cut, self._slow_reader, self._slow_writer, self._malformed, self._watcher,
            self._silent,
        ]  # fmt: skip
        threads = [
            threading.Thread(target=self._client, args=(kinds[number % len(kinds)], number, end))
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        samples = self._watch(end)
        for thread in threads:
            thread.join()
        self._judge(samples)

    def _client(self, kind: Callable[[random.Random], str], number: int, end: float) -> None:
        rng = random.Random(f"{self.seed} {number}")
        while time.monotonic() < end:
            try:
                told = kind(rng)
            except (OSError, HTTPException) as error:
                # The server may disconnect misbehaving clients only.
                told = f"{kind.__name__[1:]}: hung up on"
                served = kind in (self._honest, self._slow_reader, self._slow_writer)
                self._expect(not served, f"{told}: {error!r}")
            with self.lock:
                self.row.note(told.replace("_", " "))

    def _watch(self, end: float) -> list[tuple[float, int]]:
        """Sample (resident MiB, open files) of the server a few times per second."""
        found = []
        while time.monotonic() < end:
            found.append(_held(self.pid))
            time.sleep(0.25)
        return found

    def _judge(self, samples: list[tuple[float, int]]) -> None:
        fifth = max(1, len(samples) // 5)
        early, late = samples[fifth : 2 * fifth] or samples, samples[-fifth:]
        before, after = (statistics.median(each[0] for each in part) for part in (early, late))
        self.row.figures |= {"MiB early": round(before, 1), "MiB late": round(after, 1)}
        self.row.most("most MiB", round(max(each[0] for each in samples)))
        if self.seconds:
            for percent in (50, 99):
                milliseconds = 1000 * float(np.percentile(self.seconds, percent))
                self.row.figures[f"p{percent} ms of honest clients"] = round(milliseconds)
        self._expect(after - before <= GROWTH_MIB, f"grew from {before:.0f} to {after:.0f} MiB")
        time.sleep(3)
        self.row.figures["files at the end"] = files = _held(self.pid)[1]
        self._expect(files <= samples[0][1] + 8, f"{samples[0][1]} open files became {files}")
        for body in self.bodies[:8]:
            status, content, stopped = self._ask(body)
            right = status == 200 and self._is_right(body, content, stopped=bool(stopped))
            self._expect(right, f"a wrong answer afterwards: {status}")
        self._judge_cut()
        self.row.figures |= {"answers compared": self.compared, "of these cut": len(self.cut)}

    def _judge_cut(self) -> None:
        """Compare what ended at the deadline with the search as it is after each of its steps."""
        after = {
            body: {self._completed(body, last) for last in range(_STEPS + 1)}
            for body in {body for body, _ in self.cut}
        }
        for body, content in self.cut:
            self._expect(content in after[body], "a wrong answer at the deadline")

    def _completed(self, body: bytes, last: int = _STEPS) -> bytes:
        """Complete a request in this process, with a search that ends after so many steps."""
        image, method = self.requests[body]
        picture = decode_image(image, Path("a.png"))
        steps = _STEPS if method == "default" else None
        passed: list[int] = []
        (completion,) = self.model.complete_tasks(
            [Task(picture, open_mask("center", picture))],
            self.model.for_model(CompletionOptions(find_method(method, steps=steps))),
            on_preview=lambda preview: passed.append(preview.step),
            should_stop=lambda: last in passed,
        )
        return png_bytes(completion.candidates[0].picture)

    def _is_right(self, body: bytes, content: bytes, *, stopped: bool) -> bool:
        """Compare an answer with the right one; those that were cut, at the end."""
        with self.lock:
            self.compared += 1
            if stopped:
                self.cut.append((body, content))
        return stopped or content == self.alone[body]

    def _expect(self, holds: bool, otherwise: str) -> None:
        with self.lock:
            self.row.expect(holds, otherwise)

    def _ask(self, body: bytes) -> tuple[int, bytes, str]:
        """Return status, content, and why a search ended early, which changes its answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", "/v1/completions", body, _HEADERS)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers["Pixmend-Stopped"] or ""
        finally:
            connection.close()

    def _honest(self, rng: random.Random) -> str:
        body, begun = rng.choice(self.bodies), time.monotonic()
        status, content, stopped = self._ask(body)
        if status == 200:
            self.seconds.append(time.monotonic() - begun)
        right = status == 200 and self._is_right(body, content, stopped=bool(stopped))
        self._expect(right or status == 503, f"a wrong answer: {status}, {len(content)} bytes")
        return "honest: busy" if status == 503 else f"honest: {stopped or 'right'}"

    def _cut(self, rng: random.Random) -> str:
        """Send a request, or a part of it, and disconnect before the answer."""
        request = _request(rng.choice(self.bodies))
        with self._connect() as connection:
            connection.sendall(request[: rng.randrange(1, len(request) + 1)])
            time.sleep(rng.choice((0, 0.01, 0.2)))
            if rng.random() < 0.5:  # reset instead of close
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return "cut off"

    def _slow_reader(self, rng: random.Random) -> str:
        """Read an answer a few bytes at a time."""
        body = rng.choice(self.bodies)
        with self._connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.sendall(_request(body))
            found = b""
            while part := connection.recv(256):
                found += part
                time.sleep(0.005)
        return self._told("slow reader", body, found)

    def _slow_writer(self, rng: random.Random) -> str:
        """Send a request a few bytes at a time."""
        body = rng.choice(self.bodies)
        request = _request(body)
        with self._connect() as connection:
            for start in range(0, len(request), 100):
                connection.sendall(request[start : start + 100])
                time.sleep(0.01)
            found = b""
            while part := connection.recv(65536):
                found += part
        return self._told("slow writer", body, found)

    def _told(self, kind: str, body: bytes, answer: bytes) -> str:
        head, _, content = answer.partition(b"\r\n\r\n")
        status, stopped = head[9:12].decode(), b"pixmend-stopped:" in head.lower()
        right = status == "200" and self._is_right(body, content, stopped=stopped)
        self._expect(right or status == "503", f"a {kind} got a wrong answer: {status}")
        return f"{kind}: {status or 'hung up on'}"

    def _malformed(self, rng: random.Random) -> str:
        """Send a damaged or empty request; any answer but a 5xx is fine."""
        request = bytearray(_request(rng.choice(self.bodies)))
        for _ in range(rng.choice((1, 4, 40))):
            request[rng.randrange(len(request))] = rng.randrange(256)
        if rng.random() < 0.2:
            request = bytearray(rng.randbytes(500))
        with self._connect() as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            head = connection.recv(64)
        found = re.match(rb"HTTP/1\.1 (\d\d\d)", head)
        status = int(found[1]) if found else 0
        self._expect(status < 500 or status == 503, f"status {status} to a malformed request")
        return f"malformed: {status or 'hung up on'}"

    def _watcher(self, rng: random.Random) -> str:
        """Stream a search, and disconnect midway."""
        body = _form(
            rng.choice(sorted((BUNDLED / "characters").rglob("*.png"))).read_bytes(), "classic"
        )
        request = _request(body).replace(b"/v1/completions", b"/v1/completions/stream", 1)
        with self._connect() as connection:
            connection.sendall(request)
            head = connection.recv(4096)
            for _ in range(rng.choice((0, 4, 19))):
                if not connection.recv(4096):
                    break
        self._expect(head[9:12] in (b"200", b"503"), f"a watcher got {head[:20]!r}")
        return "watched a while"

    def _silent(self, rng: random.Random) -> str:
        """Send half a head, and nothing more, until the server hangs up."""
        with self._connect() as connection:
            connection.sendall(_request(rng.choice(self.bodies))[:40])
            told = connection.recv(64)
        return "silent: told" if told else "silent: hung up on"

    @contextmanager
    def _connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            yield connection


@contextmanager
def _serving() -> Iterator[tuple[int, int]]:
    """Run a server in its own process; yield its port and process id."""
    command = [sys.executable, "-m", "pixmend", "serve", "characters", "--port", "0", "--deadline", str(_DEADLINE)]  # fmt: skip
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # answers equal those of this process
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=one_thread) as process:  # fmt: skip
        assert process.stdout is not None
        address = re.search(r":(\d+)/", process.stdout.readline())
        assert address, "the server did not start"
        port = int(address[1])
        try:
            _wait_for(port)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(90)


def _wait_for(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)


def _form(image: bytes, method: str) -> bytes:
    fields = '--x\r\nContent-Disposition: form-data; name="mask_spec"\r\n\r\ncenter\r\n'
    fields += f'--x\r\nContent-Disposition: form-data; name="method"\r\n\r\n{method}\r\n'
    if method == "default":
        fields += f'--x\r\nContent-Disposition: form-data; name="steps"\r\n\r\n{_STEPS}\r\n'
    file = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return fields.encode() + file.encode() + image + b"\r\n--x--\r\n"


def _request(body: bytes) -> bytes:
    fields = {"Host": "127.0.0.1", "Connection": "close", "Content-Length": len(body), **_HEADERS}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /v1/completions HTTP/1.1\r\n{head}\r\n".encode() + body


def _held(pid: int) -> tuple[float, int]:
    """Return the resident MiB and the open files of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
