"""What HTTP asks of a server: fields told by name, methods, prefixes, tokens; and what a client must bear."""

import http.server
import json
import re
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from pixmend.cli.serve import listen
from pixmend.client import Client
from pixmend.errors import ServerError, SettingsError
from pixmend.images import encode_png
from pixmend.serve import AccessPolicy, Server, create_app
from tests.serve.conftest import png, running
from tests.serve.test_api import is_problem

IMAGE = ("image", ("a.png", png(), "image/png"))
CENTER = ("mask_spec", (None, "center"))


@pytest.mark.parametrize(
    ("parts", "field", "words"),
    [
        ([("image", (None, "data:image/png;base64,AAAA")), CENTER], "image", ["not a file"]),
        ([IMAGE, CENTER, ("file", ("x", b"x"))], "file", ["no field file", "image, mask, model"]),
        ([IMAGE, CENTER, ("maske", (None, "x"))], "maske", ["no field maske"]),
        ([IMAGE, IMAGE, CENTER], "image", ["given twice"]),
        ([IMAGE, CENTER, ("seed", (None, "1")), ("seed", (None, ""))], "seed", ["given twice"]),
        ([IMAGE, ("mask", (None, ""))], "mask", ["not a file"]),
        ([IMAGE, ("mask", (None, "center"))], "mask", ["not a file"]),
        ([IMAGE, CENTER, ("mask", ("m.png", png(mode="L")))], "mask", ["both given"]),
        ([IMAGE, ("mask_spec", ("m.png", png(mode="L")))], "mask_spec", ["not text"]),
        ([CENTER], "image", ["missing"]),
        ([IMAGE], "mask", ["center", "half:left", "random:0.8", "strokes:0.3", "as mask"]),
        ([IMAGE, ("mask_spec", (None, ""))], "mask", ["center", "as mask"]),
    ],
    ids=lambda value: None if isinstance(value, list) else value,
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/completions/stream"])
def test_a_field_that_says_two_things_or_nothing_is_told_by_name(served, path, parts, field, words):
    told = is_problem(served.client.post(path, files=parts), 422, *words)
    assert [each["field"] for each in told["errors"]] == [field]


def test_transparent_pixels_are_the_hole_where_none_is_said(served):
    pixels = np.random.default_rng(0).integers(1, 256, (24, 20, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[4:9, 3:12, 3] = 0
    image = ("image", ("a.png", encode_png(pixels), "image/png"))
    method = ("method", (None, "instant"))
    headers = {"accept": "image/png"}
    contents = [
        served.client.post("/v1/completions", files=[image, method, *spec], headers=headers).content
        for spec in ([], [("mask_spec", (None, "alpha"))])
    ]
    assert contents[0] == contents[1]
    assert contents[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 99999, "port 99999: needs a number from 0 to 65535"),
        ("127.0.0.1", -1, "port -1"),
        ("999.1.1.1", 8000, "host 999.1.1.1: .* choose another --host"),
        ("192.0.2.1", 0, "host 192.0.2.1, .* choose another --host"),
        ("a" * 70, 0, "choose another --host"),
    ],
)
def test_an_address_that_is_none_is_told_by_its_part(host, port, words):
    with pytest.raises(SettingsError, match=words):
        listen(host, port)


@pytest.mark.parametrize("origin", ["foo", "*", "https://a.example/", "a.example:80", "file://x"])
def test_an_origin_that_no_browser_sends_is_refused(program, origin):
    with pytest.raises(SettingsError, match="cors-origin"):
        AccessPolicy(origins=frozenset({origin}))
    ran = program("serve", "characters", "--port", 0, "--cors-origin", origin)
    assert ran.code == 2
    assert origin in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "0.0.0.0", "--token", "0123456789abcde"), "16 or more"),
        (("--root-path", "pixmend"), "such as /pixmend"),
        (("--root-path", "/a b"), "such as /pixmend"),
        (("--port", 99999), "65535"),
        (("--max-work", 0), "work"),
        (("--max-memory-mib", 0), "memory_mib"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_one_line(program, options, words):
    ran = program("serve", "characters", "--port", 0, *options)
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_head_is_get_without_a_body_and_405_names_the_methods(served):
    for path in ("/", "/docs", "/page/main.js", "/healthz", "/readyz", "/v1/models"):
        got, head = served.client.get(path), served.client.head(path)
        assert head.status_code == got.status_code == 200
        assert head.content == b""
        assert head.headers["content-length"] == str(len(got.content))
    assert served.client.head("/nothing").status_code == 404
    for method, path, allowed in (
        ("POST", "/", "GET, HEAD"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("GET", "/v1/completions", "POST"),
    ):
        answer = served.client.request(method, path)
        is_problem(answer, 405)
        assert answer.headers["allow"] == allowed


def test_the_scheme_of_a_token_has_no_case(limited):
    token = "0123456789abcdef"
    with limited(AccessPolicy(token=token)) as server:
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = {"authorization": f"{scheme} {token}"}
            assert server.client.get("/v1/models", headers=headers).status_code == 200
        for wrong in (token, f"Basic {token}", f"Bearer{token}", "Bearer", ""):
            answer = server.client.get("/v1/models", headers={"authorization": wrong})
            assert answer.status_code == 401


@pytest.mark.parametrize("prefix", ["", "/apps/pixmend"])
def test_behind_a_proxy_that_strips_its_prefix_or_not_all_is_there(catalogue, prefix):
    policy = AccessPolicy(token="0123456789abcdef")
    with running(Server(create_app(catalogue, policy=policy, root_path="/apps/pixmend"))) as url:
        page = httpx.get(f"{url}{prefix}/")
        assert page.status_code == 200
        for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert httpx.get(f"{url}{prefix}/{name}").status_code == 200
        refusal = httpx.get(f"{url}{prefix}/v1/models")
        assert is_problem(refusal, 401)["type"] == "/apps/pixmend/docs#token"
        headers = {"authorization": "Bearer 0123456789abcdef"}
        assert httpx.get(f"{url}{prefix}/v1/models", headers=headers).status_code == 200
        assert httpx.get(f"{url}/other/healthz").status_code == 401
        document = httpx.get(f"{url}{prefix}/openapi.json").json()
        assert document["servers"] == [{"url": "/apps/pixmend"}]


def test_no_file_of_the_page_names_an_absolute_path(served):
    page = served.client.get("/").text
    names = ["", "docs", *re.findall(r'(?:src|href)="(page/[^"]+)"', page)]
    names += [f"page/{name}.js" for name in ("api", "docs", "many", "stage", "pictures")]
    for name in names:
        text = served.client.get(f"/{name}").text
        assert not re.findall(r'(?:src|href)="/|[\'"`]/(?:v1|page|docs|openapi)', text), name


# The client


@contextmanager
def answering(*answers):
    """Serve these (status, headers, body) in turn; yield the URL and the number of requests."""
    asked, rest = [], list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = rest.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


MODELS = (200, {}, json.dumps({"models": []}).encode())


@pytest.mark.parametrize(
    "after", ["abc", "-5", "nan", "inf", "1e9", "", "٣", "Fri, 31 Dec 1999 23:59:59 GMT", "0"]
)
def test_a_client_waits_a_second_where_it_is_not_told_how_long(monkeypatch, after):
    waits = []
    monkeypatch.setattr("pixmend.client.time.sleep", waits.append)
    headers = {"Retry-After": after.encode().decode("latin-1")}
    with answering((503, headers, b"{}"), (503, {}, b"{}"), MODELS) as (url, asked):
        assert Client(url).models() == []
    assert len(asked) == 3
    assert waits == [0.0 if after == "0" else 1.0, 1.0]


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff\xfe", b"[]", b"{}", b'{"models": 1'])
def test_what_is_no_pixmend_server_is_told_in_a_line(body):
    with answering((200, {}, body)) as (url, _), pytest.raises(ServerError, match="pixmend server"):
        Client(url).models()


def test_an_answer_without_its_parts_is_told_in_a_line(limited, monkeypatch):
    monkeypatch.setattr("pixmend.serve.app.answer_json", lambda *_: b'{"candidates": [{}]}')
    with limited() as server, pytest.raises(ServerError, match="pixmend server"):
        Client(server.url).complete(np.zeros((9, 9), np.uint8), "center", method="instant")
