"""The page without a server in a real browser: it gives the answers of Python, and nothing leaves it."""

import functools
import io
import json
import re
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from pixmend.images import open_image
from pixmend.masks import make_mask
from pixmend.models import save_model
from tests.browser import audit, chromium, watched
from tests.inpainting import fresh_model
from tests.onnx.test_graph import smooth
from tests.serve.pages import choose, completed, downloaded, drag, missing, shoot

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from pixmend.api import Model
from pixmend.onnx.onnx_file import export_onnx, with_retrieval
from pixmend.static_page import export_page


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return pages as folders and files, served, and the ONNX files of their models, by channels."""
    folder, made = tmp_path_factory.mktemp("pages"), {}
    for channels in ("RGB", "RGBA"):
        networks, file = fresh_model(channels=channels), folder / f"{channels}.safetensors"
        save_model(networks, file)
        model = Model(networks, "cpu")
        export_page(file, model, "tiny", folder / channels)
        made[channels] = export_onnx(networks, folder / f"{channels}.onnx")
    export_page(file, model, "tiny", folder / "RGBA.html", single=True)
    handler = functools.partial(Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield folder, f"http://127.0.0.1:{server.server_port}", made
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser, exported):
    """Open a page, without network once it is loaded; nothing may be complained of or asked of others."""
    folder, url, _ = exported
    faults, contexts = [], []

    def open_page(name="RGB/", *, ready=True, **options):
        contexts.append(browser.new_context(**options))
        page = watched(contexts[-1], faults, allowed=(f"{url}/", "blob:", "data:", "file:"))
        page.goto(f"file://{folder}/{name}" if name.endswith(".html") else f"{url}/{name}")
        if ready:
            page.wait_for_selector("#examples img")
            page.evaluate(f"import({json.dumps(place(page, 'browser.js'))}).then((m) => m.started)")
            contexts[-1].set_offline(True)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, faults


def place(page, name):
    """Return the address of a module of the page."""
    return page.evaluate(
        "(name) => { const map = document.querySelector('script[type=importmap]'); "
        "return map ? JSON.parse(map.textContent).imports[name] : new URL(`page/${name}`, document.baseURI).href; }",
        name,
    )


def file_of(tmp_path, pixels, name="image.png", **options):
    path = tmp_path / name
    Image.fromarray(pixels.squeeze()).save(path, **options)
    return path


def pixels_of(content, bands):
    return np.asarray(Image.open(io.BytesIO(content)).convert(bands))


@pytest.mark.parametrize(
    ("name", "bands", "size"),
    [("RGB/", 3, (20, 30)), ("RGB/", 1, (41, 16)), ("RGBA/", 4, (20, 30)), ("RGBA.html", 4, (9, 40))],
)  # fmt: skip
def test_answers_are_those_of_python_and_known_pixels_stay(
    visit, exported, tmp_path, name, bands, size
):
    page, pixels = visit(name), smooth(*size, bands)
    if bands == 4:
        pixels[:3, :5, 3] = 0  # hidden colours are kept, too
    choose(page, file_of(tmp_path, pixels))
    drag(page, (0.4, 0.45), (0.6, 0.5))
    assert missing(page) > 5
    page.click("summary >> nth=0")
    hole = pixels_of(downloaded(page, "#mask-export")[1], "L") > 127
    completed(page)
    shown, content = downloaded(page)
    assert shown == "image-completed.png"
    answer = pixels_of(content, {1: "L", 3: "RGB", 4: "RGBA"}[bands]).reshape(pixels.shape)
    assert np.array_equal(answer[~hole], pixels[~hole])
    model = exported[2]["RGB" if name == "RGB/" else "RGBA"]
    expected = model.complete(pixels.squeeze(), hole, candidates=4).best.reshape(pixels.shape)
    assert np.abs(expected.astype(int) - answer).max() <= 1
    assert not np.array_equal(answer, pixels)


SHAPES = ("center:0.5", "center:0.3", "half:left", "half:right", "half:top", "half:bottom", "grid", "lowres:4", "lowres:3")  # fmt: skip


def test_shapes_are_those_of_python_and_random_ones_have_their_share(visit):
    page = visit(ready=False)
    sizes = [(16, 16), (31, 20), (9, 45), (50, 33)]
    drawn = page.evaluate(
        "async ([specs, sizes]) => { const { shapeMask } = await import(new URL('page/shapes.js', document.baseURI)); "
        "return specs.map((spec) => sizes.map(([height, width]) => [...shapeMask(spec, width, height, 3)])); }",
        [[*SHAPES, "random:0.8", "strokes:0.25"], sizes],
    )
    for spec, masks in zip([*SHAPES, "random:0.8", "strokes:0.25"], drawn, strict=True):
        for (height, width), mask in zip(sizes, masks, strict=True):
            hole = np.array(mask).reshape(height, width) == 255
            expected = make_mask(spec, height, width).hole
            if spec in SHAPES:
                assert np.array_equal(hole, expected), spec
            elif spec.startswith("random"):
                assert hole.sum() == expected.sum()
            else:
                assert 0.25 <= hole.mean() < 0.6


def test_files_of_pixels_are_read_and_written_exactly(visit):
    page = visit("RGBA/", ready=False)
    pixels = np.random.default_rng(0).integers(0, 256, (23, 17, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    written = page.evaluate(
        """async (content) => {
        const png = await import(new URL('page/png.js', document.baseURI));
        const { pixels, width, height, bands } = await png.read(new File([Uint8Array.from(content)], 'a.png'));
        const file = await png.encode(pixels, width, height, bands);
        return [[...pixels], [...new Uint8Array(await file.arrayBuffer())]];
    }""",
        list(buffer.getvalue()),
    )
    assert np.array_equal(np.array(written[0]).reshape(pixels.shape), pixels)
    assert np.array_equal(pixels_of(bytes(written[1]), "RGBA"), pixels)


def test_a_folder_is_dropped_and_completed_into_a_zip(visit, exported, tmp_path):
    page, images = visit(), tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "deep/b.png")):
        file_of(images, smooth(16, 16, 3, seed=number), name)
    (images / "notes.txt").write_text("no image")
    choose(page, images / "a.png")
    page.locator("#shapes button").first.click()
    box = page.locator("#stage").bounding_box()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(images)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data})  # fmt: skip
    page.locator("#many-status", has_text="2 of 2").wait_for()
    _, content = downloaded(page, "#many-zip")
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert sorted(archive.namelist()) == ["images/a.png", "images/deep/b.png"]
    expected = exported[2]["RGB"].complete(smooth(16, 16, 3, seed=1), "center").best
    answer = pixels_of(archive.read("images/deep/b.png"), "RGB")
    assert np.abs(expected.astype(int) - answer).max() <= 1


def test_a_phone_has_all_of_it_and_nothing_that_axe_minds(visit, tmp_path):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    choose(page, file_of(tmp_path, smooth(16, 16, 3)))
    page.locator("#shapes button").first.tap()
    page.locator("#go").tap()
    page.wait_for_selector("#gallery button[aria-pressed=true]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "API" not in page.inner_text("body")
    audit(page)
    shoot(page, "static-phone")


def test_a_large_image_is_completed_around_its_hole(visit, tmp_path):
    page, pixels = visit(), smooth(1200, 1700, 3)
    choose(page, file_of(tmp_path, pixels))
    drag(page, (0.5, 0.5), (0.52, 0.5))
    page.click("summary >> nth=0")
    hole = pixels_of(downloaded(page, "#mask-export")[1], "L") > 127
    completed(page)
    answer = pixels_of(downloaded(page)[1], "RGB")
    assert np.array_equal(answer[~hole], pixels[~hole])
    assert not np.array_equal(answer[hole], pixels[hole])


def test_what_cannot_be_completed_is_said_in_a_line(visit, tmp_path):
    page = visit()
    page.set_input_files("#file", _text(tmp_path, "x.png", "no image"))
    page.locator("#error", has_text="x.png is not an image").wait_for()
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(deep)
    _refused(page, deep, "16 bits a channel")
    veiled = np.full((16, 16, 4), 99, np.uint8)
    _refused(page, file_of(tmp_path, veiled, "veiled.webp", lossless=True), "veiled.webp: a browser keeps")  # fmt: skip
    choose(page, file_of(tmp_path, smooth(16, 16, 3)))
    page.locator("#mask-invert").evaluate("(button) => button.click()")  # in a closed part
    page.click("#go")
    page.locator("#error", has_text="All of the image is painted").wait_for()


def _text(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def _refused(page, file, words):
    choose(page, file)
    page.locator("#shapes button").first.click()
    page.click("#go")
    page.locator("#error", has_text=words).wait_for()
    assert "\n" not in page.inner_text("#error")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("model/bank.bin", "model/bank.bin is missing or damaged"),
        ("model/model.bin", "model/model.bin is missing or damaged"),
        ("page/worker.js", "could not be started"),
    ],
)
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_folder_is_said_in_a_line(browser, exported, tmp_path, path, words, damage):
    folder, url, _ = exported
    content = (folder / "RGB" / path).read_bytes()
    middle = len(content) // 2
    changed = {
        "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "cut": content[:middle],
        "missing": b"",
    }
    if (path, damage) == ("page/worker.js", "changed"):
        pytest.skip("a script has no checksum")
    context = browser.new_context()
    status = 404 if damage == "missing" else 200
    kind = "text/javascript" if path.endswith("js") else "application/octet-stream"
    context.route(f"**/{path}", lambda route: route.fulfill(status=status, body=changed[damage], content_type=kind))  # fmt: skip
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{url}/RGB/")
    _refused(page, file_of(tmp_path, smooth(16, 16, 3)), words)
    context.close()


def test_from_a_file_and_in_an_old_browser_one_line_says_what_to_do(browser, visit, exported):
    folder, url, _ = exported
    page = browser.new_page()
    page.goto(f"file://{folder}/RGB/index.html")
    page.locator("main[role=alert]", has_text="python3 -m http.server").wait_for()
    page.close()
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(f"{url}/RGB/")
    page.locator("main[role=alert]", has_text="too old").wait_for()
    page.close()


@pytest.mark.parametrize("name", ["RGB/", "RGBA.html"])
def test_the_policy_lets_nothing_out_and_no_foreign_script_in(browser, exported, name):
    page = browser.new_page()
    page.goto(f"{exported[1]}/{name}")
    tried = page.evaluate(
        """async () => {
        const blocked = [];
        addEventListener('securitypolicyviolation', ({ effectiveDirective }) => blocked.push(effectiveDirective));
        await fetch('http://localhost:9/').catch(() => {});
        new Image().src = 'http://localhost:9/x.png';
        const script = document.createElement('script');
        script.textContent = 'window.injected = true';
        document.body.append(script);
        await new Promise((resolve) => setTimeout(resolve, 300));
        return [blocked.sort(), window.injected === true];
    }"""
    )
    assert tried == [["connect-src", "img-src", "script-src-elem"], False]
    page.close()


class Isolating(Quiet):
    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@pytest.mark.parametrize("handler", [Isolating, Quiet])
def test_several_threads_run_where_the_server_isolates_the_page(browser, exported, tmp_path, handler):  # fmt: skip
    here = functools.partial(handler, directory=exported[0])
    with ThreadingHTTPServer(("127.0.0.1", 0), here) as server:
        threading.Thread(target=server.serve_forever).start()
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/RGB/")
        assert page.evaluate("crossOriginIsolated") == (handler is Isolating)
        choose(page, file_of(tmp_path, smooth(16, 16, 3)))
        page.locator("#shapes button").first.click()
        completed(page)
        targets = browser.new_browser_cdp_session().send("Target.getTargets")["targetInfos"]
        cores = page.evaluate("navigator.hardwareConcurrency")
        page.close()
        server.shutdown()
    # The first thread is the page's worker.
    threads = min(4, cores) if handler is Isolating else 1
    assert sum(each["type"] == "worker" for each in targets) == threads


def test_export_writes_a_page_and_says_its_size(program, tmp_path):
    model, out = tmp_path / "model.safetensors", tmp_path / "site"
    save_model(fresh_model(), model)
    ran = program("export", model, out, "--page", "--half", "--retrieval", 2)
    assert ran.code == 0, ran.err
    assert re.search(r"MB: onnxruntime-web 3\.\d MB, the model 0\.\d MB", ran.out)
    settings = re.search('id="settings"[^>]*>(.*?)<', (out / "index.html").read_text())[1]
    assert json.loads(settings)["files"]["bank"]["bytes"] == 128 * 3 * 16 * 16  # a padded chunk
    assert "Microsoft" in (out / "onnxruntime-web" / "LICENSE").read_text()
    assert program("export", model, out, "--page").code == 0  # over itself
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("mine")
    cases = {
        ("--page", other): "is no page of pixmend",
        ("--page", tmp_path / "a.onnx"): "--page writes a folder",
        ("--single-file", tmp_path / "a.html"): "add --page",
        ("--page", "--single-file", tmp_path / "a"): "ends in .html",
    }
    for (*options, place), words in cases.items():
        ran = program("export", model, place, *options)
        assert ran.code == 2
        assert words in ran.err
    assert (other / "index.html").read_text() == "mine"


def test_fewer_retrieval_images_are_spread_over_all():
    networks = fresh_model(retrieval_images=9)
    kept = with_retrieval(networks, 3).retrieval.images
    assert np.array_equal(kept, networks.retrieval.images[[0, 4, 8]])
    assert with_retrieval(networks, 0) is networks
    assert with_retrieval(networks, 20) is networks


def test_an_answer_from_a_page_is_an_image_that_python_reads(visit, tmp_path):
    page = visit()
    choose(page, file_of(tmp_path, smooth(16, 16, 1), "grey.png"))
    page.locator("#shapes button").first.click()
    completed(page)
    path = tmp_path / "answer.png"
    path.write_bytes(downloaded(page)[1])
    assert open_image(path).channels == "L"
