"""The API: bytes equal to the command line's, batch independence, errors in sentences."""

import base64
import io
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from pixmend.client import Client
from pixmend.errors import ServerError
from pixmend.masks import SHAPES, make_mask
from pixmend.models import BUNDLED
from tests.serve.conftest import png

EXAMPLES = sorted((BUNDLED / "characters").rglob("*.png"))[:6]
SEARCH = {"model": "tiny", "method": "yeh", "seconds": 30}


def is_problem(answer, status, *words):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert told["detail"].endswith(".")
    assert all(word in told["detail"] for word in words), told["detail"]
    return told


def sent(path, **fields):
    return {"files": {"image": (path.name, path.read_bytes(), "image/png")}, **fields}


def test_bytes_are_those_of_the_command_line_and_of_python(served, program, tmp_path):
    given = EXAMPLES[0]
    options = ("--mask", "half:left", "--candidates", 3, "--seed", 5, "--out")
    assert program("complete", "characters", given, *options, tmp_path / "here").code == 0
    fields = {"mask_spec": "half:left", "candidates": 3, "seed": 5}
    whole = served.post(accept="image/png", **sent(given, **fields)).content
    assert whole == (tmp_path / "here" / given.name).read_bytes()
    told = served.post(**sent(given, **fields)).json()
    candidates = [base64.b64decode(each["image"]) for each in told["candidates"]]
    assert candidates[0] == whole
    assert candidates[1] == (tmp_path / "here" / f"{given.stem}.candidate-2.png").read_bytes()
    model = served.catalogue["characters"].model
    result = model.complete(given, "half:left", candidates=3, seed=5)
    for content, image in zip(candidates, result.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(image))
    there = ("--server", served.url, *options, tmp_path / "there")
    assert program("complete", "characters", given, *there).code == 0
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "there").iterdir())
    for name in names:
        if name != "results.jsonl":
            assert (tmp_path / "here" / name).read_bytes() == (
                tmp_path / "there" / name
            ).read_bytes()


@pytest.mark.parametrize("kind", ["1", "L", "LA", "RGBA", "CMYK", "I;16", "floats"])
def test_the_client_gives_what_python_gives_in_every_mode(served, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    if kind == "floats":
        image = pixels[..., 0] / np.float32(255)
    elif kind == "I;16":
        image = pixels[..., 0].astype(np.uint16) * 257
    else:
        image = Image.frombytes(
            "CMYK" if kind == "CMYK" else "RGBA", (24, 20), pixels.tobytes()
        ).convert(kind)
    here = served.catalogue["tiny"].model.complete(image, "grid", steps=2, candidates=2)
    there = Client(served.url).complete(image, "grid", model="tiny", steps=2, candidates=2)
    for one, other in zip(here.images, there.images, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert np.array_equal(here.uncertainty, there.uncertainty)
    assert np.array_equal(here.history, there.history)
    assert [each.loss for each in here.candidates] == [each.loss for each in there.candidates]


@pytest.mark.parametrize(("suffix", "mode"), [(".tif", "CMYK"), (".webp", "RGB"), (".bmp", "L")])
def test_a_format_that_holds_the_answer_comes_back_in_kind(
    served, program, tiny_file, tmp_path, suffix, mode
):
    path = tmp_path / f"a{suffix}"
    Image.new(mode, (20, 24)).save(path)
    options = ("--mask", "center", "--steps", 1, "--out", tmp_path / "out")
    assert program("complete", tiny_file, path, *options).code == 0
    files = {"image": (path.name, path.read_bytes(), "image/any")}
    (told,) = served.post(files=files, model="tiny", steps=1).json()["candidates"]
    assert told["file"]["suffix"] == suffix
    content = base64.b64decode(told["file"]["data"])
    assert content == (tmp_path / "out" / path.name).read_bytes()


def test_answers_do_not_depend_on_company_and_none_is_mixed_up(served, limited):
    alone = [served.post(accept="image/png", **sent(path)).content for path in EXAMPLES]
    assert len(set(alone)) == len(alone)
    with limited(batch_wait_ms=300, batch=8) as server, ThreadPoolExecutor(len(EXAMPLES)) as pool:
        asked = [pool.submit(server.post, accept="image/png", **sent(path)) for path in EXAMPLES]
        assert [each.result().content for each in asked] == alone
        batches = server.metric("pixmend_batch_size_count")
        assert server.metric("pixmend_batch_size_sum") == len(EXAMPLES)
        assert batches < len(EXAMPLES)


def test_a_mask_is_a_shape_or_an_image_and_the_server_draws_each_shape(served):
    for spec in SHAPES:
        query = {"width": 20, "height": 24, "seed": 3}
        drawn = served.client.get(f"/v1/masks/{spec}", params=query)
        assert drawn.status_code == 200
        with Image.open(io.BytesIO(drawn.content)) as image:
            hole = np.asarray(image) >= 128
        assert np.array_equal(hole, make_mask(spec, 24, 20, seed=3).hole)
        image = ("a.png", png(), "image/png")
        files = {"image": image, "mask": ("m.png", drawn.content, "image/png")}
        fields = {"accept": "image/png", "seed": 3, "model": "tiny", "steps": 1}
        by_image = served.post(files=files, **fields)
        assert (
            by_image.content
            == served.post(files={"image": image}, mask_spec=spec, **fields).content
        )
    is_problem(served.client.get("/v1/masks/nothing?width=9&height=9"), 422, *SHAPES)
    is_problem(served.client.get("/v1/masks/grid?width=9000&height=9000"), 422, "4,000,000")
    is_problem(served.client.get("/v1/masks/strokes:0.999?width=9&height=9"), 422, "0.8")


def test_models_tell_of_themselves_and_no_path_is_told_or_taken(served):
    told = served.client.get("/v1/models").json()["models"]
    assert [each["id"] for each in told] == ["characters", "tiny"]
    assert told[0]["efforts"][0]["method"] == "instant"
    assert "instant" not in told[1]["methods"]
    assert served.client.get("/v1/models/tiny").json() == told[1]
    for path in ("/v1/models/tiny/samples", "/v1/models/characters/examples/0"):
        with Image.open(io.BytesIO(served.client.get(path).content)) as image:
            assert image.format == "PNG"
    is_problem(served.client.get("/v1/models/tiny/examples/99"), 404)
    for name in ("../tiny.safetensors", "/etc/passwd", "http://example.org/m", "other"):
        is_problem(served.post(model=name), 404, "no such model", "characters, tiny")
    assert ".safetensors" not in json.dumps(told)


def test_it_is_alive_and_ready_and_counts(served):
    assert served.client.get("/healthz").json() == {"status": "ok"}
    assert served.client.get("/readyz").status_code == 200
    before = served.metric('pixmend_requests_total{route="/v1/completions",status="200"}')
    assert served.post(method="instant").status_code == 200
    assert (
        served.metric('pixmend_requests_total{route="/v1/completions",status="200"}') == before + 1
    )
    assert served.metric("process_resident_memory_bytes") > 1e7


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"candidates": "many"}, 422, ["candidates"]),
        ({"nonsense": "1"}, 422, ["nonsense"]),
        ({"method": "clasic"}, 422, ["did you mean classic"]),
        ({"mask_spec": "center:7"}, 422, ["between 0 and 1"]),
        ({"mask_spec": "/etc/passwd"}, 422, ["center"]),
        ({"mask_spec": "http://example.org/m.png"}, 422, ["center"]),
        ({"method": "instant", "model": "tiny"}, 422, ["no inpainter"]),
        ({"seconds": "nan"}, 422, ["seconds"]),
        ({"seed": "-1"}, 422, ["seed"]),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_used_is_told_by_name(served, fields, status, words):
    told = is_problem(served.post(**fields), status, *words)
    assert told["errors"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"other": ("a.png", b"x")}, ["other"]),
        ({"image": ("a.png", b"no image")}, ["not an image"]),
        ({"image": ("a.png", png()[:99])}, ["amaged"]),
        ({"image": ("a.png", png()), "mask": ("m.png", b"no mask")}, ["ask"]),
        ({"image": ("a.png", png()), "mask": ("m.png", png(9, 9))}, ["9 x 9"]),
        ({"image": ("a.png", png()), "mask": ("m.png", b"")}, ["ask"]),
    ],
    ids=["no image", "text", "half", "mask", "size", "empty"],
)
def test_a_file_that_cannot_be_used_is_told_in_a_sentence(served, files, words):
    is_problem(served.post(files=files), 422, *words)


def test_a_message_names_the_file_as_the_user_wrote_it(served):
    files = {"image": ("iPhone.png", png()), "mask": ("m.png", png(9, 9))}
    assert served.post(files=files).json()["detail"].startswith("iPhone.png: ")


def test_what_is_no_form_is_refused(served):
    post = served.client.post
    is_problem(post("/v1/completions", json={"image": "x"}), 415, "image")
    is_problem(
        post("/v1/completions", content=b"--x", headers={"content-type": "multipart/form-data"}),
        400,
    )
    is_problem(served.client.get("/v1/completions"), 405)
    is_problem(served.client.get("/nothing"), 404)


# Streams


def events(served, stop_after=None, **fields):
    heard = []
    image = {"image": ("a.png", png(), "image/png")}
    data = {"mask_spec": "center", **fields}
    with served.client.stream("POST", "/v1/completions/stream", files=image, data=data) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                heard.append([value])
            elif name == "data":
                heard[-1].append(json.loads(value))
                if stop_after and stop_after(heard):
                    break
    return heard


def test_a_stream_shows_the_search_and_ends_with_the_answer_that_is_given_unwatched(served):
    fields = {"model": "tiny", "method": "yeh", "steps": 520}
    heard = events(served, **fields)
    names = [name for name, _ in heard]
    assert names[0] == "accepted"
    assert names[-1] == "done"
    assert names.count("snapshot") == 1
    shown = [told for name, told in heard if name in ("step", "snapshot")]
    losses = [told["loss"] for told in shown]
    assert losses == sorted(losses, reverse=True)
    given = np.asarray(Image.open(io.BytesIO(png())))
    for told in shown[:: len(shown) // 3]:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["image"]))))
        known = make_mask("center", 24, 20).known
        assert np.array_equal(image[known], given[known])
        assert not np.array_equal(image[~known], given[~known])
    plain = served.post(**fields).json()
    assert heard[-1][1]["candidates"] == plain["candidates"]
    assert heard[-1][1]["snapshots"] == plain["snapshots"]


def test_a_cancelled_search_ends_with_its_best_so_far(served):
    client = Client(served.url)
    pixels = np.asarray(Image.open(io.BytesIO(png())))
    heard, begun = [], time.monotonic()
    for name, told in client.watch(pixels, "center", **SEARCH):
        heard.append(name)
        if name == "accepted":
            key = told["id"]
        if name == "step" and heard.count("step") == 2:
            client.cancel(key)
    assert heard[-1] == "done"
    assert told["stopped"] == "cancelled"
    assert told["steps"] >= 1
    assert time.monotonic() - begun < 20
    with pytest.raises(ServerError, match="has ended"):
        client.cancel(key)


def until(what, seconds=15):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_work_of_a_client_that_has_gone_is_dropped(served):
    gone = served.metric('pixmend_dropped_total{reason="gone"}')
    events(served, stop_after=lambda heard: heard[-1][0] == "step", **SEARCH)
    until(lambda: served.metric('pixmend_dropped_total{reason="gone"}') > gone)
    with pytest.raises(httpx.ReadTimeout):
        served.client.post(
            "/v1/completions",
            files={"image": png()},
            data={"mask_spec": "center", **SEARCH},
            timeout=httpx.Timeout(5, read=0.5),
        )
    until(lambda: served.metric('pixmend_dropped_total{reason="gone"}') > gone + 1)
    until(lambda: served.metric("pixmend_inside") == 0)
    assert served.post(method="instant").status_code == 200


def test_what_waits_for_a_client_that_has_gone_is_never_begun(limited):
    with limited() as server:
        batches = server.metric("pixmend_batch_size_count")
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(events, server, lambda heard: len(heard) > 20, **SEARCH)
            until(lambda: server.metric("pixmend_streams") == 1)
            with pytest.raises(httpx.ReadTimeout):
                server.client.post(
                    "/v1/completions",
                    files={"image": png()},
                    data={"mask_spec": "center"},
                    timeout=httpx.Timeout(5, read=0.4),
                )
            first.result()
        until(
            lambda: server.metric("pixmend_waiting") == 0 and server.metric("pixmend_inside") == 0
        )
        assert server.metric("pixmend_batch_size_count") == batches + 1


def test_leaving_answers_what_is_inside_and_then_ends(limited):
    with limited(drain=2) as server, ThreadPoolExecutor(2) as pool:
        search = pool.submit(events, server, **SEARCH)
        until(lambda: server.metric("pixmend_streams") == 1)
        server.server.leave()
        heard = search.result(30)
        assert heard[-1][0] == "done"
        assert heard[-1][1]["steps"] >= 1
        assert heard[-1][1]["stopped"] == "leaving"
        until(lambda: not server.service.worker.alive)
        with pytest.raises(httpx.ConnectError):
            server.client.get("/healthz")


def test_a_batch_that_fails_is_a_problem_and_the_next_goes_on(limited, monkeypatch, caplog):
    with limited() as server:
        model = server.catalogue["tiny"].model
        monkeypatch.setattr(model, "complete_tasks", lambda *_, **__: 1 / 0)
        is_problem(server.post(model="tiny"), 500, "its log")
        assert events(server, model="tiny")[-1][0] == "error"
        monkeypatch.undo()
        assert server.post(model="tiny", steps=1).status_code == 200
    assert "ZeroDivisionError" in caplog.text


def test_a_client_waits_where_the_server_is_busy_and_tells_its_words(served, limited):
    with pytest.raises(ServerError, match="no such model"):
        Client(served.url).complete(np.zeros((9, 9), np.uint8), "center", model="other")
    with pytest.raises(ServerError, match="pixmend serve"):
        Client("http://127.0.0.1:9").models()
    with pytest.raises(ServerError, match="no address"):
        Client("characters").models()
    with limited(queue=1) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(events, server, lambda heard: len(heard) > 8, **SEARCH)
        until(lambda: server.metric("pixmend_streams") == 1)
        client, pixels = Client(server.url), np.asarray(Image.open(io.BytesIO(png())))
        with pytest.raises(ServerError, match="busy"):
            Client(server.url, patience=0).complete(pixels, "center")
        assert client.complete(pixels, "center", method="instant").candidates
        first.result()


def test_without_httpx_the_extra_is_named(monkeypatch, program, tmp_path):
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "pixmend.client")
    where = ("--out", tmp_path / "out", "--server", "http://127.0.0.1:9")
    ran = program("complete", "--mask", "center", "characters", EXAMPLES[0], *where)
    assert ran.code == 2
    assert "--server needs httpx; pip install 'pixmend[client]'" in ran.err


def test_no_thread_is_left_behind(served):
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("pixmend-device") == 1
