"""Clients that send half a request, read nothing, or ask for more than can be done: the others are served."""

import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from pixmend.completion import CompletionOptions, Task, find_method
from pixmend.images import encode_png, open_image
from pixmend.masks import Mask
from pixmend.serve import AccessPolicy
from pixmend.serve.answers import JsonResponse
from pixmend.serve.connections import LogLimit
from tests.serve.conftest import png
from tests.serve.test_api import events, is_problem, until
from tests.serve.test_limits import half_a_form

DOTS = "random:0.02"


@pytest.fixture
def busy(monkeypatch):
    """Return a factory: it makes the device thread of a server busy until the test ends."""
    end, begun = threading.Event(), threading.Event()

    def keep_busy(server):
        model = server.catalogue["tiny"].model
        complete_tasks = model.complete_tasks

        def wait(tasks, options, **more):
            begun.set()
            end.wait(60)
            return complete_tasks(tasks, options, **more)

        monkeypatch.setattr(model, "complete_tasks", wait)
        return begun, end

    yield keep_busy
    end.set()


# Work that takes too long


def test_nobody_waits_past_a_deadline_whatever_the_device_does(limited, busy):
    with limited(deadline=4) as server, ThreadPoolExecutor(3) as pool:
        until(lambda: server.post(method="instant").status_code == 200, 60)  # all is imported
        begun, end = busy(server)
        first = pool.submit(server.post, model="tiny", steps=1)
        assert begun.wait(30)
        second = pool.submit(server.post, method="instant")
        heard = events(server, method="instant")
        assert [name for name, _ in heard] == ["accepted", "error"]
        assert heard[-1][1]["status"] == 503
        for each in (first, second):
            assert is_problem(each.result(), 503, "within the time allowed")
            assert each.result().headers["retry-after"]
        until(lambda: server.metric("pixmend_inside") == 0)
        end.set()
        until(lambda: server.post(method="instant").status_code == 200, 60)


@pytest.mark.parametrize("view", ["whole", "window"])
def test_an_exception_ends_completion_between_answers(served, view):
    class EnoughError(Exception):
        pass

    model, asked, limit = served.catalogue["characters"].model, [], []
    pixels = np.zeros((70, 70), np.uint8)
    known = np.ones((70, 70), bool)
    known[4:6, 4:6] = known[60:62, 60:62] = False
    task = Task(open_image(pixels), Mask(known))
    options = CompletionOptions(find_method("instant"), candidates=4, view=view)

    def should_stop():
        asked.append(1)
        if len(asked) in limit:
            raise EnoughError
        return False

    list(model.complete_tasks([task], options, should_stop=should_stop))
    windows = {"whole": 1, "window": 2}[view]
    assert len(asked) >= 4 * windows
    for number in range(1, len(asked) + 1):
        asked.clear()
        limit[:] = [number]
        with pytest.raises(EnoughError):
            list(model.complete_tasks([task], options, should_stop=should_stop))


def test_more_windows_than_can_be_completed_in_time_are_refused_with_the_bound(limited):
    files = {"image": ("a.png", png(150, 150, mode="L"))}
    with limited(work=80_000) as server:
        fields = {"mask_spec": DOTS, "method": "instant"}
        is_problem(server.post(files=files, view="window", **fields), 422, "windows", "80,000")
        assert server.post(files=files, view="whole", **fields).status_code == 200
        is_problem(server.post(candidates=16, method="best"), 422, "80,000")
    with limited() as server:
        assert server.post(files=files, view="window", **fields).status_code == 200


def test_holes_without_number_are_refused_before_they_are_grouped(served, monkeypatch):
    monkeypatch.setattr("pixmend.serve.requests.windows_around", lambda *_: 1 / 0)
    lattice = np.zeros((400, 400), np.uint8)
    lattice[::2, ::2] = 255
    files = {"image": png(400, 400, mode="L"), "mask": encode_png(lattice[..., None])}
    is_problem(served.post(files=files, view="window"), 422, "40,000 windows")


@pytest.mark.parametrize(("width", "height"), [(4_000_000, 1), (1, 4_000_000), (4001, 1), (0, 5)])
def test_thin_masks_are_refused_by_their_side(served, width, height):
    answer = served.client.get(f"/v1/masks/strokes:0.8?width={width}&height={height}")
    is_problem(answer, 422, "sides of at most 4,000")


def test_thin_images_are_refused_by_their_side(limited):
    with limited(pixels=400) as server:  # sides of at most 40
        is_problem(server.post(files={"image": png(2, 100)}), 422, "100 x 2", "at most 40")
        assert server.post(files={"image": png(10, 40)}, method="instant").status_code == 200


def test_masks_take_places_and_end_at_the_deadline(limited, monkeypatch):
    path, end = "/v1/masks/grid?width=9&height=9", threading.Event()
    with limited(queue=1, deadline=4) as server:
        slow = half_a_form(server, 1000)
        until(lambda: server.metric("pixmend_inside") == 1)
        is_problem(server.client.get(path), 503, "busy")
        slow.close()
        until(lambda: server.metric("pixmend_inside") == 0)
        assert server.client.get(path).status_code == 200
        monkeypatch.setattr("pixmend.serve.app.mask_png", lambda *_: end.wait(60))
        is_problem(server.client.get(path), 503, "within the time allowed")
        end.set()


# Memory


def test_an_answer_larger_than_the_memory_is_refused_and_several_wait(limited, busy):
    with limited(memory_mib=0.05) as server, ThreadPoolExecutor(1) as pool:
        is_problem(server.post(candidates=12), 422, "(0.05)", "ask for less")
        begun, end = busy(server)
        fields = {"candidates": 6}
        first = pool.submit(server.post, model="tiny", steps=1, **fields)
        assert begun.wait(30)
        is_problem(server.post(**fields), 503, "busy")
        end.set()
        assert first.result().status_code == 200
        until(lambda: server.metric("pixmend_inside") == 0)
        assert server.post(**fields).status_code == 200


# Connections


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=200)


def has_ended(connection):
    """Return whether the server closes a connection; timeouts of the socket are errors."""
    try:
        while connection.recv(2**16):
            pass
    except ConnectionError:
        pass
    return True


@pytest.fixture
def hasty(monkeypatch):
    """Look at connections often."""
    monkeypatch.setattr("pixmend.serve.connections._READ_SECONDS", 0.3)


@pytest.fixture
def short(hasty, monkeypatch):
    """Shorten the time for a head too."""
    monkeypatch.setattr("pixmend.serve.connections._HEAD_SECONDS", 0.5)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_never_ends_is_hung_up_on(limited, short, sent):
    with limited() as server, connect(server) as connection:
        connection.sendall(sent)
        assert has_ended(connection)


def test_the_second_head_and_a_body_that_drips_are_hung_up_on_too(limited, short):
    with limited() as server:
        for more in (b"GET /he", None):
            with connect(server) as connection:
                length = b"content-length: 999\r\n" if more is None else b""
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n%s\r\n" % length)
                assert connection.recv(9) == b"HTTP/1.1 "
                if more:
                    connection.sendall(more)
                    assert has_ended(connection)
                    continue
                with pytest.raises(ConnectionError):  # noqa: PT012
                    for _ in range(300):
                        connection.sendall(b"x")
                        time.sleep(0.05)


def big_request(server, path):
    request = httpx.Request(
        "POST",
        server.url + path,
        files={"image": ("a.png", png(700, 700), "image/png")},
        data={"mask_spec": "center", "model": "tiny", "steps": "1", "candidates": "4"},
        headers={"connection": "close"},
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.read()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/completions/stream"])
def test_a_client_that_never_reads_frees_its_place(limited, hasty, path):
    with limited(streams=1) as server:
        request = big_request(server, path)
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request)
            until(lambda: server.metric("pixmend_batch_size_count") == 1, 200)
            until(lambda: server.metric("pixmend_inside") == 0, 200)
            assert server.metric("pixmend_streams") == 0
        assert server.post(model="tiny", steps=1).status_code == 200


def test_a_client_that_reads_slowly_but_reads_gets_all_of_it(limited, monkeypatch):
    # Several looks at the connection, far enough apart for a busy machine.
    monkeypatch.setattr("pixmend.serve.connections._READ_SECONDS", 1.5)
    with limited() as server:
        request = big_request(server, "/v1/completions")
        with connect(server) as connection:
            connection.sendall(request)
            content = b""
            while part := connection.recv(2**18):
                content += part
                time.sleep(0.15)
        head, _, body = content.partition(b"\r\n\r\n")
        assert b"200 OK" in head
        assert len(json.loads(body)["candidates"]) == 4


def test_newcomers_take_the_place_of_those_that_send_nothing(limited, monkeypatch):
    monkeypatch.setattr("pixmend.serve.connections.max_connections", lambda: 4)
    with limited() as server:
        idle = [connect(server) for _ in range(12)]
        for each in idle:
            each.sendall(b"GET / HT")
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        until(lambda: len(server.server.server_state.connections) <= 4)
        assert all(has_ended(each) for each in idle[:8])
        for each in idle:
            each.close()


def test_the_log_is_bounded_a_minute_and_says_so(monkeypatch):
    monkeypatch.setattr("pixmend.serve.connections._LINES_A_MINUTE", 3)
    limit, shown = LogLimit(), []

    def log(name, minute, message="%s is 100 %"):
        record = logging.LogRecord(name, logging.INFO, "", 0, message, (), None)
        record.created = 60.0 * minute
        if limit.filter(record):
            shown.append((name, record.getMessage()))

    for minute in (1, 2):
        for _ in range(9):
            log("a", minute)
    log("b", 2)
    assert [name for name, _ in shown] == ["a"] * 6 + ["b"]
    assert ["left out" in line for _, line in shown] == [False, False, True] * 2 + [False]


def test_json_has_null_where_it_has_no_number(limited, monkeypatch):
    value = {"a": float("nan"), "b": [float("inf"), 1.5]}
    assert JsonResponse(value).body == b'{"a":null,"b":[null,1.5]}'

    def refuse(name):
        raise AssertionError(name)

    with limited() as server:
        model = server.catalogue["tiny"].model
        complete_tasks = model.complete_tasks

        def broken(tasks, options, **more):
            for each in complete_tasks(tasks, options, **more):
                yield dataclasses.replace(
                    each, history=np.full(3, np.nan, np.float32), confidence=float("inf")
                )

        monkeypatch.setattr(model, "complete_tasks", broken)
        answer = server.post(model="tiny", steps=1, full=True)
        assert answer.status_code == 200
        told = json.loads(answer.text, parse_constant=refuse)
        assert told["history"] == [None] * 3
        assert events(server, model="tiny", steps=1, full=True)[-1][1]["confidence"] is None


# Pages of other sites


def test_an_image_of_another_page_reaches_no_route(limited):
    site = "https://friend.example"
    with limited(AccessPolicy(origins=frozenset({site}))) as server:
        for path in ("/v1/masks/grid?width=9&height=9", "/v1/models", "/metrics"):
            for kind in ("cross-site", "same-site"):
                headers = {"sec-fetch-site": kind, "sec-fetch-mode": "no-cors"}
                is_problem(server.client.get(path, headers=headers), 403, "other sites")
                allowed = {**headers, "origin": site}
                assert server.client.get(path, headers=allowed).status_code == 200
            for kind in ("same-origin", "none"):
                headers = {"sec-fetch-site": kind}
                assert server.client.get(path, headers=headers).status_code == 200
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert server.client.get("/", headers=link).status_code == 200


# The end of the process

_STUCK = """
import sys, threading
import pixmend.serve.app as app
from pixmend.cli import main
app.mask_png = lambda *_: threading.Event().wait()
sys.argv = ["pixmend", "serve", "characters", "--port", "0", "--drain", sys.argv[1]]
main()
"""


@pytest.mark.parametrize(("drain", "signals"), [(2, 1), (600, 2)])
def test_signals_end_the_process_whatever_its_threads_do(drain, signals):
    command = [sys.executable, "-c", _STUCK, str(drain)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            url = process.stdout.readline().decode().strip()
            with ThreadPoolExecutor(2) as pool:
                for _ in range(2):  # as many as there are threads for it
                    pool.submit(httpx.get, f"{url}v1/masks/grid?width=9&height=9", timeout=60)
                until(lambda: "pixmend_inside 2.0" in httpx.get(f"{url}metrics", timeout=60).text)
                for _ in range(signals):
                    os.kill(process.pid, signal.SIGTERM)
                    time.sleep(0.5)
                assert process.wait(30) == 1
        finally:
            process.kill()
