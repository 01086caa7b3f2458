"""What strangers, spreadsheets, terminals and signals get: a refusal, a line, or the work that is done."""

import csv
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np

from pixmend.client import Client
from pixmend.images import encode_png
from tools.prove.children import attempt, program, start
from tools.prove.crash import compare, look
from tools.prove.siege import serving
from tools.prove.tally import Row, Scale, counted
from tools.prove.world import SIDE, Verb, World, make_world, verbs_of

__all__ = ["formulas", "manners", "odd_servers", "stopped", "strangers"]

_TOKEN = "t" * 16
_RETRY_AFTER = ("abc", "-5", "nan", "inf", "1e9", "Fri, 31 Dec 1999 23:59:59 GMT")
_FORMULAS = ("=HYPERLINK(1).png", "+1.png", "-1.png", "@SUM(1).png", "\t=1.png")
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


def manners(scale: Scale, folder: Path) -> list[Row]:
    """Try each of them."""
    world = make_world(folder)
    verbs = {verb.name: verb for verb in verbs_of(world)}
    return [
        strangers(),
        odd_servers(),
        formulas(world, folder / "formulas"),
        stopped(verbs["train"], folder / "stopped", scale.rounds),
    ]


def strangers() -> Row:
    """Ask as other sites, by other names, without a body, and with tokens of any kind."""
    with counted("serve: other sites, names and tokens") as row:
        own, mask = {"Host": "localhost"}, "/v1/masks/grid?width=9&height=9"
        with serving() as target:
            for method, path, headers, status in (
                ("GET", mask, own, 200),
                ("GET", mask, {"Host": "rebound.example"}, 421),
                ("GET", mask, {**own, "Origin": "https://evil.example"}, 403),
                ("GET", mask, {**own, "Sec-Fetch-Site": "cross-site"}, 403),
                ("GET", mask, {**own, "Sec-Fetch-Site": "same-site"}, 403),
                ("GET", "/", {**own, "Sec-Fetch-Site": "cross-site"}, 200),
                ("HEAD", "/healthz", own, 200),
                ("HEAD", "/", own, 200),
                ("PUT", "/healthz", own, 405),
            ):
                _expect_status(row, target.port, method, path, headers, status)
        with serving("--token", _TOKEN) as target:
            for scheme in ("Bearer", "bearer", "BEARER"):
                headers = {**own, "Authorization": f"{scheme} {_TOKEN}"}
                _expect_status(row, target.port, "GET", mask, headers, 200)
            for wrong in ("", f"Basic {_TOKEN}", f"Bearer {_TOKEN}x", "Bearer"):
                headers = {**own, "Authorization": wrong}
                _expect_status(row, target.port, "GET", mask, headers, 401)
        short = attempt(
            program("serve", "characters", "--host", "0.0.0.0", "--port", 0, "--token", "short")
        )
        row.note(f"a short token {short.kind}")
        row.expect(short.kind == "refused" and short.is_clean, short.last_words)
    return row


def odd_servers() -> Row:
    """Ask servers that are full and name no sensible time, and then answer."""
    with counted("client: Retry-After of any kind, and no answer of ours") as row:
        for after in _RETRY_AFTER:
            begun = time.monotonic()
            with _answering((503, after, b"{}"), (200, "", b'{"models": []}')) as url:
                ended = attempt(lambda url=url: Client(url).models())
            row.note(ended.kind)
            patient = time.monotonic() - begun < 60
            row.expect(ended.code == 0 and patient, f"{after}: {ended.last_words}")
        for body in (b"<html>", b"", b"\xff", b"[]", b'{"models": 1'):
            with _answering((200, "", body)) as url:
                ended = attempt(lambda url=url: Client(url).models())
            row.note(ended.kind)
            row.expect(ended.kind == "refused" and ended.is_clean, f"{body!r}: {ended.last_words}")
    return row


def formulas(world: World, folder: Path) -> Row:
    """Evaluate images whose names a spreadsheet would compute."""
    with counted("evaluate: names that a spreadsheet would compute") as row:
        images = folder / "images"
        images.mkdir(parents=True)
        for number, name in enumerate(_FORMULAS):
            pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 1), np.uint8)
            (images / name).write_bytes(encode_png(pixels))
        ended = attempt(
            program(
                "evaluate", world.model, images, "--out", folder / "out", "--methods", "classic:0.002", "--masks", "center",
            )
        )  # fmt: skip
        row.expect(ended.code == 0, ended.last_words)
        if ended.code:
            return row
        with (folder / "out" / "results.csv").open(newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        for name in _FORMULAS:
            row.note("told")
            row.expect(any(name.strip() in cell for cell in cells), f"{name!r} is not told of")
        computed = [each for each in cells if each[:1] in ("=", "+", "@", "\t") or each[:2] == "-1"]
        row.expect(not computed, f"a spreadsheet would compute {computed[:3]}")
    return row


def stopped(verb: Verb, folder: Path, rounds: int) -> Row:
    """End a verb by each signal once it has saved something, look at its folder, and run it again."""
    with counted(f"{verb.name}: SIGHUP, SIGTERM and SIGINT") as row:
        attempt(verb.command(folder / "whole"))
        whole = verb.result(folder / "whole")
        for number in _SIGNALS * rounds:
            out = folder / f"{len(list(folder.iterdir()))}"
            child = start(verb.command(out))
            until = time.monotonic() + 60
            while not list(out.glob("*/*.safetensors")) and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(child.pid, number)
            ended = child.end()
            row.note({0: "done", 130: "stopped and saved"}.get(ended.code, ended.kind))
            saved = ended.code in (0, 130) and "Traceback" not in ended.said
            row.expect(saved, f"{number.name}: {ended.kind}: {ended.last_words}")
            look(verb, out, frozenset(), row)
            again = attempt(verb.command(out))
            row.expect(again.code == 0, f"{number.name}, rerun {again.kind}: {again.last_words}")
            compare(verb, out, whole, row)
    return row


def _expect_status(
    row: Row, port: int, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    row.note(f"{answer.status}")
    right = answer.status == status and (method != "HEAD" or not body)
    row.expect(right, f"{method} {path} {headers}: {answer.status} in place of {status}")


@contextmanager
def _answering(*answers: tuple[int, str, bytes]) -> Iterator[str]:
    """Serve these (status, Retry-After, body) in turn; yield the URL."""
    rest = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, after, body = rest.pop(0)
            self.send_response(status)
            if after:
                self.send_header("Retry-After", after)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
