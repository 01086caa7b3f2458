"""Limits and access control."""

import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from pixmend.cli.serve import is_loopback
from pixmend.errors import SettingsError
from pixmend.images import encode_png
from pixmend.serve import AccessPolicy, Limits
from tests.serve.conftest import png
from tests.serve.test_api import SEARCH, events, is_problem, until
from tools.prove.bombs import tile_bomb


def test_a_body_over_the_limit_is_refused_by_what_it_says_or_by_what_it_is(limited):
    content = png(200, 200)
    with limited(body_mib=1 / 16) as server:
        assert server.post(method="instant").status_code == 200
        is_problem(server.post(files={"image": content}), 413, "0.0625 MiB")
        made = httpx.Request("POST", server.url, files={"image": content})
        body, kind = made.read(), made.headers["content-type"]

        def chunks():
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000]

        answer = server.client.post(
            "/v1/completions", content=chunks(), headers={"content-type": kind}
        )
        is_problem(answer, 413)
        until(lambda: server.metric("pixmend_inside") == 0)


def test_pixels_are_counted_before_anything_is_decoded(limited):
    with limited(pixels=500) as server:
        assert server.post(method="instant").status_code == 200
        is_problem(server.post(files={"image": png(30, 20)}), 422, "30", "pixels")
        is_problem(server.post(files={"image": png(), "mask": png(30, 20)}), 422, "pixels")
        bomb = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
        begun = time.monotonic()
        is_problem(server.post(files={"image": bomb.getvalue()}), 422, "pixels")
        assert time.monotonic() - begun < 10


def test_formats_are_allowed_by_name(limited):
    gif = io.BytesIO()
    Image.new("L", (9, 9)).save(gif, "GIF")
    with limited(formats=("PNG", "JPEG")) as server:
        told = is_problem(server.post(files={"image": ("a.png", gif.getvalue())}), 422)
        assert "jpeg, png" in told["detail"]
        assert server.client.get("/v1/models").json()["limits"]["formats"] == ["png", "jpeg"]


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        ({"candidates": 2}, {"candidates": 3}),
        ({"steps": 10}, {"method": "yeh", "steps": 11}),
        ({"steps": 10}, {"method": "yeh"}),
        ({"seconds": 2}, {"seconds": 3}),
    ],
    ids=str,
)
def test_what_one_request_may_ask_for_is_bounded(limited, limits, fields):
    with limited(**limits) as server:
        is_problem(server.post(**fields), 422, "ask for less")


def test_a_full_server_says_when_to_come_again_and_mixes_nothing_up(limited):
    images = [png(seed=seed) for seed in range(12)]
    with limited(queue=4) as server, ThreadPoolExecutor(12) as pool:
        alone = {
            image: server.post(files={"image": image}, accept="image/png").content
            for image in images
        }
        asked = {
            image: pool.submit(server.post, files={"image": image}, accept="image/png")
            for image in images
        }
        answers = {image: each.result() for image, each in asked.items()}
    kinds = {answer.status_code for answer in answers.values()}
    assert kinds == {200, 503}
    for image, answer in answers.items():
        if answer.status_code == 503:
            is_problem(answer, 503, "busy")
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert answer.content == alone[image]


def half_a_form(server, length):
    """Return a connection that has sent a request's head and three bytes of its body."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("content-type", "multipart/form-data; boundary=x")
    connection.putheader("content-length", str(length))
    connection.endheaders(b"--x")
    return connection


def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(limited):
    with limited(body_mib=1) as server:
        slow = half_a_form(server, 10**12)
        assert slow.getresponse().status == 413
        slow.close()


def test_forms_that_still_come_in_count_too(limited):
    with limited(queue=2) as server:
        slow = [half_a_form(server, 1000) for _ in range(2)]
        until(lambda: server.metric("pixmend_inside") == 2)
        is_problem(server.post(), 503, "busy")
        for each in slow:
            each.close()
        until(lambda: server.metric("pixmend_inside") == 0)
        assert server.post().status_code == 200


def test_only_so_many_searches_are_watched(limited):
    with limited(streams=1) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(events, server, lambda heard: len(heard) > 10, **SEARCH)
        until(lambda: server.metric("pixmend_streams") == 1)
        answer = server.post("/v1/completions/stream")
        is_problem(answer, 503, "are streamed")
        assert answer.headers["retry-after"]
        first.result()
        until(lambda: server.metric("pixmend_streams") == 0)
        assert events(server, method="instant")[-1][0] == "done"


def test_a_search_past_its_deadline_ends_with_its_best_and_what_waited_is_refused(limited):
    with limited(deadline=5) as server, ThreadPoolExecutor(1) as pool:
        search = pool.submit(server.post, **SEARCH)
        until(lambda: server.metric("pixmend_batch_size_count") == 1)
        told = search.result()
        assert told.status_code == 200
        assert told.headers["pixmend-stopped"] == "deadline"
        assert told.json()["stopped"] == "deadline"
        slow = half_a_form(server, 1000)
        assert slow.getresponse().status == 408
        slow.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue", 0),
        ("candidates", 65),
        ("seconds", float("nan")),
        ("formats", ("EXE",)),
        ("batch", -1),
    ],
)
def test_a_limit_that_is_none_is_told(name, value):
    with pytest.raises(SettingsError, match=name):
        Limits(**{name: value})


# Access


def test_hosts_by_other_names_and_pages_of_other_sites_are_refused(served):
    get = served.client.get
    is_problem(get("/v1/models", headers={"host": "evil.example"}), 421, "--allow-host")
    is_problem(get("/", headers={"host": "evil.example:80"}), 421)
    assert get("/v1/models", headers={"host": "localhost:1"}).status_code == 200
    is_problem(get("/v1/models", headers={"origin": "https://evil.example"}), 403, "other sites")
    is_problem(get("/v1/models", headers={"origin": "null"}), 403)
    assert get("/v1/models", headers={"origin": served.url}).status_code == 200
    assert "access-control-allow-origin" not in get("/v1/models").headers


def test_a_site_that_is_named_may_call(limited):
    site = "https://friend.example"
    with limited(AccessPolicy(origins=frozenset({site}))) as server:
        answer = server.client.get("/v1/models", headers={"origin": site})
        assert answer.headers["access-control-allow-origin"] == site
        asked = {"origin": site, "access-control-request-method": "POST"}
        assert server.client.options("/v1/completions", headers=asked).status_code == 200
        is_problem(server.client.get("/v1/models", headers={"origin": "https://evil.example"}), 403)


def test_a_token_is_wanted_for_all_but_the_page(limited):
    with limited(AccessPolicy(token="a secret")) as server:
        for path in ("/v1/models", "/metrics", "/v1/masks/grid?width=9&height=9"):
            assert is_problem(server.client.get(path), 401, "Bearer")
            for wrong in ("a secre", "a secret2", "x", "é".encode()):
                head = {
                    "authorization": b"Bearer "
                    + (wrong if isinstance(wrong, bytes) else wrong.encode())
                }
                assert server.client.get(path, headers=head).status_code == 401
            assert (
                server.client.get(path, headers={"authorization": "Bearer a secret"}).status_code
                == 200
            )
        assert server.post().status_code == 401
        for path in ("/", "/page/main.js", "/docs", "/healthz"):
            assert server.client.get(path).status_code == 200


def test_every_answer_has_the_headers_that_keep_strangers_out(served):
    for path in ("/", "/page/main.js", "/docs", "/v1/models", "/nothing"):
        headers = served.client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    assert served.client.get("/v1/models").headers["cache-control"] == "no-store"


def test_the_page_names_nothing_outside_itself(served):
    page = served.client.get("/").text
    names = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert names
    for name in names:
        assert not name.startswith("/"), name
        assert served.client.get(f"/{name}").status_code == 200
    assert "style=" not in page
    assert served.client.get("/page/../app.py").status_code == 404
    assert served.client.get("/page/%2e%2e/app.py").status_code == 404


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("example", False),
    ],
)
def test_loopback_is_told_from_the_rest(host, is_one):
    assert is_loopback(host) == is_one


def test_logs_tell_of_requests_and_carry_nothing_of_images_or_paths(limited, caplog):
    with limited() as server, caplog.at_level("INFO", "pixmend.serve"):
        server.post(files={"image": ("private-name.png", png())})
        server.client.get("/secret-path?token=abc")
    assert "POST /v1/completions 200" in caplog.text
    assert "private-name" not in caplog.text
    assert "secret-path" not in caplog.text


def test_no_image_is_written_to_disk(limited, monkeypatch):
    import tempfile

    def refuse(*_, **__):
        raise AssertionError("written to disk")

    monkeypatch.setattr(tempfile, "_TemporaryFileWrapper", refuse)
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    with limited() as server:
        assert len(png(900, 900)) > 2**21
        image = {"image": png(900, 900)}
        assert server.post(files=image, model="tiny", steps=1).status_code == 200


def test_the_program_serves_prints_a_token_off_loopback_and_drains_on_sigterm(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pixmend",
        "serve",
        "characters",
        "--port",
        "0",
        "--host",
        "0.0.0.0",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, env={**os.environ, "PIXMEND_TOKEN": ""})
    try:
        address = process.stdout.readline().strip()
        port, token = re.fullmatch(r"http://0\.0\.0\.0:(\d+)/#token=(\S{20,})", address).groups()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.get("/v1/models").status_code == 401
            client.headers["authorization"] = f"Bearer {token}"
            assert client.get("/v1/models").status_code == 200
            with ThreadPoolExecutor(1) as pool:
                image = {"image": png(64, 64)}
                search = pool.submit(
                    client.post,
                    "/v1/completions",
                    files=image,
                    data={"mask_spec": "center", "method": "yeh", "seconds": 3},
                )
                time.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                assert search.result().status_code == 200
        assert process.wait(30) == 0
        assert token not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken_is_one_line(program):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = program("serve", "characters", "--port", taken.getsockname()[1])
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "choose another --port" in ran.err


def test_a_bomb_by_its_structure_is_refused_in_a_line_and_the_next_request_is_answered(served):
    bomb = served.post(files={"image": ("a.tif", tile_bomb(), "image/tiff")})
    assert bomb.status_code == 422
    assert bomb.json()["detail"].startswith(("Image: damaged", "Image: its decoding"))
    assert served.post(steps=1).status_code == 200


def test_a_mask_is_read_from_the_image_by_the_specs_of_the_command_line(served):
    pixels = np.random.default_rng(0).integers(1, 256, (24, 20, 4), np.uint8)
    pixels[5:9, 3:9, 3] = 0
    files = {"image": ("a.png", encode_png(pixels), "image/png")}
    for spec in ("alpha", "auto"):
        answer = served.post(files=files, mask_spec=spec, steps=1)
        assert answer.status_code == 200
        assert answer.json()["missing"] == pytest.approx(24 / 480)
    for spec in ("nan", "color:#123456"):
        refused = served.post(files=files, mask_spec=spec, steps=1)
        assert refused.status_code == 422
        assert f"no pixel is missing by mask {spec}" in refused.json()["detail"]
