"""The page in a real browser: open, paint, complete, compare, undo, download; by mouse, keyboard and touch."""

import io
import math
import zipfile

import numpy as np
import pytest
from PIL import Image

from pixmend.models import BUNDLED
from tests.browser import audit
from tests.serve.pages import EXAMPLE, choose, completed, downloaded, drag, drawn, missing, shoot


def test_the_whole_story_and_the_download_is_what_the_command_line_writes(visit, program, tmp_path):
    page = visit(viewport={"width": 1280, "height": 860})
    page.wait_for_selector("#examples img")
    shoot(page, "welcome")
    choose(page)
    assert page.is_disabled("#go")
    drag(page, (0.25, 0.3), (0.7, 0.35), (0.6, 0.7))
    brushed = missing(page)
    assert brushed > 20
    page.keyboard.press("Control+z")
    assert missing(page) == 0
    page.keyboard.press("Control+Shift+z")
    assert missing(page) == brushed
    page.keyboard.press("r")
    drag(page, (0.5, 0.1), (0.9, 0.4))
    boxed = missing(page)
    page.keyboard.press("l")
    drag(page, (0.1, 0.6), (0.45, 0.6), (0.3, 0.9))
    assert missing(page) > boxed > brushed
    page.keyboard.press("e")
    drag(page, (0.5, 0.1), (0.9, 0.4))
    assert missing(page) < boxed + 2000
    shoot(page, "painted")
    page.click("summary >> nth=0")
    _, mask = downloaded(page, "#mask-export")
    completed(page)
    labels = page.locator("#gallery button").all_inner_texts()
    assert labels == ["1", "2", "3", "4"][: len(labels)]  # no loss, which does not order them
    assert "steps" not in page.inner_text("#facts")
    page.fill("#wipe", "50")
    page.check("#overlay")
    shoot(page, "answers")
    page.focus("#stage")
    before = drawn(page)
    page.keyboard.down("Tab")
    assert drawn(page) != before
    page.wait_for_timeout(300)
    page.keyboard.up("Tab")
    assert drawn(page) == before
    name, content = downloaded(page)
    assert name == "keraleeyam__regular-completed.png"
    (tmp_path / "mask.png").write_bytes(mask)
    options = ("--mask", tmp_path / "mask.png", "--candidates", 4, "--out", tmp_path / "out")
    assert program("complete", "characters", EXAMPLE, *options).code == 0
    assert content == (tmp_path / "out" / EXAMPLE.name).read_bytes()
    page.keyboard.press("Control+z")
    assert page.is_hidden("#compare")
    audit(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_either_light_has_all_of_it_and_nothing_that_axe_minds(visit, scheme):
    page = visit(
        viewport={"width": 390, "height": 844},
        device_scale_factor=2,
        has_touch=True,
        is_mobile=True,
        color_scheme=scheme,
    )
    page.locator("#examples button").first.tap()
    page.wait_for_selector("#welcome", state="hidden")
    page.locator("#shapes button").first.tap()
    page.wait_for_selector("#go:enabled")
    audit(page)
    page.locator("#go").tap()
    page.wait_for_selector("#gallery button[aria-pressed=true]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    audit(page)
    shoot(page, f"phone-{scheme}")


def test_a_finger_paints_and_two_fingers_do_not(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    choose(page)
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.touchscreen.tap(x, y)
    page.locator("#mask-facts", has_text="missing (").wait_for()
    painted = missing(page)
    assert painted > 0
    touch = page.context.new_cdp_session(page)
    points = [{"x": x - 60, "y": y, "id": 0}, {"x": x + 60, "y": y, "id": 1}]
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points[:1]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points})
    wide = [{**points[0], "x": x - 120}, {**points[1], "x": x + 120}]
    touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": wide})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert missing(page) == painted


def test_all_of_it_by_keyboard(visit):
    page = visit(viewport={"width": 1280, "height": 860})
    page.wait_for_selector("#examples img")

    def go_to(selector):
        for _ in range(80):
            if page.evaluate(
                "document.activeElement.matches(arguments_)".replace("arguments_", repr(selector))
            ):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    go_to("#examples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#welcome", state="hidden")
    for key in ("]", "]", "ArrowLeft", "Enter", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert missing(page) > 20
    page.keyboard.press("r")
    for key in ("Enter", "Shift+ArrowRight", "Shift+ArrowUp", "Enter"):
        page.keyboard.press(key)
    go_to("#shapes button:nth-child(2)")
    page.keyboard.press("Enter")
    page.locator("#mask-facts", has_text="(50 %)").wait_for()
    go_to("#effort")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#effort-name") == "Instant"
    go_to("#go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#gallery button[aria-pressed=true]")
    go_to("#gallery button:nth-child(2)")
    page.keyboard.press("Enter")
    assert page.get_attribute("#gallery button:nth-child(2)", "aria-pressed") == "true"
    page.focus("#stage")
    page.keyboard.press("Tab")  # held no longer than a press, it goes on
    assert page.evaluate("document.activeElement.id") != "stage"


def test_a_search_is_watched_and_stopped_with_the_best_so_far(visit):
    page = visit(viewport={"width": 1280, "height": 860})
    page.wait_for_selector("#examples img")
    page.select_option("#model", "tiny")
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#welcome", state="hidden")
    page.click("#shapes button >> nth=0")
    page.click("#more summary")
    page.select_option("#method", "yeh")
    page.fill("#seconds", "60")
    page.click("#go")
    page.locator("#status", has_text="Step").wait_for()
    page.wait_for_selector("#curve")
    shoot(page, "search")
    page.click("#stop")
    page.wait_for_selector("#gallery button[aria-pressed=true]")
    assert "best so far" in page.inner_text("#status")
    number, loss = page.inner_text("#gallery button >> nth=0").split(": ")
    assert number == "1"
    assert math.isfinite(float(loss))
    assert "lower loss" in page.inner_text("#facts")


def test_an_image_of_another_kind_and_errors_are_told_in_sentences(visit, tmp_path):
    page = visit(viewport={"width": 1280, "height": 860})
    page.wait_for_selector("#examples img")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    Image.fromarray(pixels[:32]).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    choose(page, tmp_path / "noise.png")
    page.set_input_files("#mask-file", tmp_path / "small.png")
    page.locator("#error", has_text="small.png is 64 × 32").wait_for()
    page.set_input_files("#file", tmp_path / "text.png")
    page.locator("#error", has_text="is not an image").wait_for()
    page.click("#shapes button >> nth=0")
    page.wait_for_selector("#go:enabled")
    completed(page)
    assert "take the answer for a guess" in page.inner_text("#unlike")
    shoot(page, "unlike")


def test_a_link_repeats_it(visit):
    page = visit()
    page.wait_for_selector("#examples img")
    page.click("#examples button >> nth=2")
    page.click("#shapes button >> nth=1")
    page.wait_for_selector("#go:enabled")
    page.fill("#candidates", "2")
    completed(page)
    first = downloaded(page)
    page.evaluate(
        "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }"
    )
    page.click("#link")
    page.locator("#status", has_text="copied").wait_for()
    link = page.evaluate("window.copied")
    again = visit("/" + link.split("/")[-1])
    again.wait_for_selector("#go:enabled")
    completed(again)
    assert downloaded(again) == first


def test_many_come_back_in_a_zip_and_one_bad_file_is_told(visit, tmp_path):
    page = visit()
    page.wait_for_selector("#examples img")
    files = sorted((BUNDLED / "characters").glob("Sample00[1-3]/*.png"))
    (tmp_path / "bad.png").write_bytes(b"no image")
    page.click("#many-open")
    assert page.is_disabled("#many-files")
    assert page.is_disabled("#many-folder")
    assert "Choose what is missing first" in page.inner_text("#many-status")
    audit(page)
    page.select_option("#many-mask", "half:left")
    page.set_input_files("#many-input", [*files, tmp_path / "bad.png"])
    page.wait_for_selector("#many-zip", state="visible")
    assert "bad.png" in page.inner_text("#many-failed")
    audit(page)
    shoot(page, "many")
    _, content = downloaded(page, "#many-zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(path.name for path in files)
        for path in files:
            with (
                Image.open(path) as given,
                Image.open(io.BytesIO(archive.read(path.name))) as found,
            ):
                assert (found.size, found.mode) == (given.size, given.mode)
                known = np.s_[:, given.width // 2 :]
                assert np.array_equal(np.asarray(found)[known], np.asarray(given)[known])
                assert not np.array_equal(np.asarray(found), np.asarray(given))


def test_dropped_files_wait_for_the_mask_and_are_then_completed(visit, tmp_path):
    page = visit()
    page.wait_for_selector("#examples img")
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[2:5, 3:6] = 0
    names = ("a.png", "b.png")
    for name in names:
        Image.fromarray(pixels).save(tmp_path / name)
    contents = [list((tmp_path / name).read_bytes()) for name in names]
    page.evaluate(
        """(contents) => {
            const data = new DataTransfer();
            contents.forEach((each, n) => data.items.add(
                new File([Uint8Array.from(each)], `${'ab'[n]}.png`, { type: 'image/png' })));
            document.dispatchEvent(new DragEvent('drop', { dataTransfer: data }));
        }""",
        contents,
    )
    page.locator("#many-status", has_text="in these 2 images").wait_for()
    assert not [url for url in sent if "completions" in url]
    page.select_option("#many-mask", "alpha")
    page.locator("#many-status", has_text="2 of 2 completed").wait_for()
    _, content = downloaded(page, "#many-zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == list(names)
        with Image.open(io.BytesIO(archive.read("a.png"))) as found:
            known = pixels[..., 3] > 0
            assert np.array_equal(np.asarray(found)[known], pixels[known])


def test_the_docs_of_the_api_are_a_page_of_our_own(visit):
    page = visit("/docs", viewport={"width": 1000, "height": 900})
    page.wait_for_selector("#operations h3")
    assert "/v1/completions" in page.inner_text("#operations")
    audit(page)
    shoot(page, "docs")
