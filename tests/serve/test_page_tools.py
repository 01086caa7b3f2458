"""The page's mask tools, messages, large images and ways to go on."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pixmend
from pixmend.images import encode_png
from pixmend.models import save_model
from pixmend.serve import Catalogue
from tests.browser import audit
from tests.serve.conftest import serving
from tests.serve.pages import choose, completed, downloaded, drag, drawn, missing, shoot

DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def in_view(page, selector):
    """Return whether all of an element is on the screen, and nothing over it."""
    return page.evaluate(
        """selector => { const box = document.querySelector(selector).getBoundingClientRect();
        const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return box.width > 0 && box.top >= 0 && box.left >= 0 && box.bottom <= innerHeight && box.right <= innerWidth
          && (top?.closest(selector) || top?.querySelector(selector)) !== null; }""",
        selector,
    )


def test_the_laws_of_the_mask_tools(visit):
    assert visit().evaluate((Path(__file__).parent / "mask_laws.js").read_text()) == []


def test_mask_tools_by_their_buttons_and_undo_covers_each(visit, tmp_path):
    pixels = np.full((40, 60, 4), 255, np.uint8)
    pixels[5:15, 10:30, :3] = (200, 30, 30)
    pixels[20:30, 40:50, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "red.png")
    page = visit(**DESKTOP)
    choose(page, tmp_path / "red.png")
    page.click("summary >> nth=0")
    page.keyboard.press("c")
    page.focus("#stage")
    for _ in range(15):
        page.keyboard.press("ArrowUp")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert missing(page) == 10 * 20
    counts = [200]
    for button, expected in (
        ("#mask-alpha", 200 + 100),
        ("#mask-grow", 12 * 22 + 12 * 12),
        ("#mask-shrink", 300),
        ("#mask-invert", 40 * 60 - 300),
    ):
        page.click(button)
        assert missing(page) == expected
        counts.append(expected)
    _, mask = downloaded(page, "#mask-export")
    page.click("#clear")
    assert missing(page) == 0
    (tmp_path / "mask.png").write_bytes(mask)
    page.set_input_files("#mask-file", tmp_path / "mask.png")
    page.locator("#mask-facts", has_text="2,100 pixels").wait_for()
    page.click("#undo")
    page.click("#undo")
    for expected in reversed(counts):
        assert missing(page) == expected
        page.click("#undo")
    assert missing(page) == 0
    assert page.evaluate("document.activeElement.id") == "stage"  # undo is disabled now
    page.click("#shapes button >> text=Random")
    page.wait_for_selector("#go:enabled")
    one = downloaded(page, "#mask-export")[1]
    page.click("#shapes button >> text=Random")
    page.wait_for_selector("#redo:disabled")
    page.wait_for_timeout(500)
    assert downloaded(page, "#mask-export")[1] != one


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_messages_are_on_the_screen_in_the_words_of_the_page(visit, device, tmp_path):
    page = visit(**device)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    name = 'damaged "a".png'
    Image.fromarray(noise).save(tmp_path / name)
    choose(page, tmp_path / name)
    page.click("summary >> nth=0")
    page.click("#mask-alpha")
    page.locator("#error", has_text="No pixel of this image is fully transparent").wait_for()
    assert in_view(page, "#error")
    page.click("#mask-invert")
    assert page.is_hidden("#error")
    page.click("#go")
    page.locator("#error", has_text="All of the image is painted").wait_for()
    assert in_view(page, "#error")
    shoot(page, f"error-{'phone' if device is PHONE else 'desktop'}")
    audit(page)
    page.fill("#candidates", "99")
    page.click("#go")
    page.locator("#error", has_text="Answers: ").wait_for()
    assert in_view(page, "#error")
    page.fill("#candidates", "2")
    problem = {"detail": "Image.png: broken. Candidates: 9 is more than 4.", "status": 422}
    problem |= {"errors": [{"field": "candidates", "message": ""}]}
    page.route("**/stream", lambda route: route.fulfill(status=422, body=json.dumps(problem)))
    page.click("#shapes button >> nth=0")
    page.locator("#mask-facts", has_text="1,024 pixels").wait_for()
    page.click("#go")
    page.locator("#error", has_text=f"{name}: broken. Answers: 9 is more than 4.").wait_for()
    page.unroute("**/stream")
    completed(page)
    assert "take the answer for a guess" in page.inner_text("#unlike")
    assert in_view(page, "#unlike")
    assert "should be correct" not in page.inner_text("#facts")
    assert in_view(page, "#go") or device is DESKTOP
    audit(page)
    shoot(page, f"unlike-{'phone' if device is PHONE else 'desktop'}")
    page.click(".warning button")
    assert page.is_hidden("#unlike")


def test_one_goes_on_from_an_answer_and_stale_answers_go(visit):
    page = visit(**DESKTOP)
    choose(page)
    page.click("#shapes button >> text=Left half")
    page.wait_for_selector("#go:enabled")
    page.focus("#go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#gallery button[aria-pressed=true]")
    assert page.evaluate("document.activeElement.id") in ("go", "stage")
    assert page.locator("#gallery button").count() > 1  # those that differ are all shown
    assert page.input_value("#wipe") == "100"
    after = drawn(page)
    page.fill("#wipe", "0")
    assert drawn(page) != after
    page.fill("#wipe", "100")
    first = Image.open(io.BytesIO(downloaded(page)[1])).convert("L")
    page.click("#use")
    assert page.is_hidden("#result")
    assert missing(page) == 0
    assert page.evaluate("document.activeElement.id") == "stage"
    page.click("#shapes button >> text=Top half")
    page.wait_for_selector("#go:enabled")
    completed(page)
    second = Image.open(io.BytesIO(downloaded(page)[1])).convert("L")
    assert np.array_equal(np.asarray(first)[32:], np.asarray(second)[32:])
    page.click("#edit")
    assert page.is_visible("#result")  # it still answers this mask
    drag(page, (0.2, 0.9), (0.5, 0.9))
    assert page.is_hidden("#result")
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert missing(page) == 64 * 32


def test_answers_that_look_the_same_are_shown_once_and_cropped_to_the_hole(visit):
    page = visit(**DESKTOP)
    choose(page)
    page.keyboard.press("r")
    drag(page, (0.02, 0.02), (0.1, 0.1))  # white paper, whatever is drawn

    def warn(route):
        words = '"warnings":["the hole is fine; view = window looks closer"]'
        route.fulfill(body=route.fetch().text().replace('"warnings":[]', words))

    page.route("**/stream", warn)
    completed(page)
    told = page.inner_text("#unlike")
    assert told.startswith("The hole is fine; under More settings, the View")
    assert "=" not in told
    assert page.locator("#gallery button").count() == 1
    assert "3 more answers look the same" in page.inner_text("#facts")
    side = page.evaluate("document.querySelector('#gallery canvas').width")
    assert side <= 16


def test_a_photo_of_12_megapixels_is_completed_around_its_hole(visit, tmp_path):
    column = np.stack([np.arange(3000) // 12 % 256, np.arange(3000) % 200], -1)
    photo = np.zeros((3000, 4000, 3), np.uint8)
    photo[..., :2] = column[:, None]
    Image.fromarray(photo).save(tmp_path / "photo.png", compress_level=1)
    page = visit(**DESKTOP)
    sent = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request))
    choose(page, tmp_path / "photo.png")
    page.fill("#candidates", "1")
    drag(page, (0.5, 0.5), (0.6, 0.55))
    completed(page)
    assert "pixels around the hole were given to the model" in page.inner_text("#facts")
    shoot(page, "photo")
    mask = np.asarray(Image.open(io.BytesIO(exported(page)))) >= 128
    answer = np.asarray(Image.open(io.BytesIO(downloaded(page)[1])).convert("RGB"))
    assert answer.shape == photo.shape
    hole = mask.reshape(*mask.shape[:2], -1)[..., 0]
    assert np.array_equal(answer[~hole], photo[~hole])
    assert not np.array_equal(answer[hole], photo[hole])
    (request,) = sent
    assert int(request.all_headers()["content-length"]) < 4e6
    page.click("#use")
    page.locator("#mask-facts", has_text="Nothing").wait_for()
    Image.new("RGBA", (2100, 2100), (9, 9, 9, 128)).save(tmp_path / "glass.png")
    choose(page, tmp_path / "glass.png")
    page.locator("#image-facts", has_text="glass.png").wait_for()
    drag(page, (0.5, 0.5), (0.6, 0.55))
    page.click("#go")
    page.locator("#error", has_text="too large for its transparency").wait_for()


def exported(page):
    page.click("summary >> nth=0")
    return downloaded(page, "#mask-export")[1]


def test_a_phone_has_complete_at_hand_and_help_for_fingers(visit):
    page = visit(**PHONE)
    page.wait_for_selector("#examples img")
    assert "characters" in page.inner_text("#knows")
    choose(page)
    assert in_view(page, "#go")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert in_view(page, "#go")
    assert "two fingers zoom" in page.inner_text("#stage-help")
    assert "Wheel" not in page.inner_text("#stage-help")


def test_a_run_shows_images_it_held_out_and_what_it_knows(browser, visit, lively, tmp_path):
    (tmp_path / "icons" / "held_out").mkdir(parents=True)
    model = lively(channels="RGB")
    save_model(model, tmp_path / "icons" / "model.safetensors")
    held_out = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
    (tmp_path / "icons" / "held_out" / "7.png").write_bytes(encode_png(held_out))
    (tmp_path / "icons" / "run.json").write_text("{}")
    alone = tmp_path / "alone.safetensors"
    save_model(model, alone)
    (tmp_path / "held_out").mkdir()  # beside a model file alone, it may be anything
    models = [str(tmp_path / "icons"), str(alone), "characters"]
    with serving(Catalogue.load(models, device="cpu")) as server:
        facts = server.client.get("/v1/models").json()["models"]
        assert [(each["id"], each["drawn_examples"]) for each in facts] == [
            ("icons", False),
            ("alone", True),
            ("characters", False),
        ]
        content = server.client.get("/v1/models/icons/examples/0").content
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), held_out)
        page = visit(server=server, **DESKTOP)
        page.wait_for_selector("#examples img")
        assert "16 × 16 pixels" in page.inner_text("#knows")
        assert "not trained on" in page.inner_text("#examples-words")
        page.select_option("#model", "alone")
        page.locator("#examples-words", has_text="the model drew").wait_for()
        page.select_option("#model", "characters")
        page.locator("#knows", has_text="0-9 A-Z a-z in black on white").wait_for()
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(500)
        page.close()  # before the server goes


def test_only_the_completer_asks_for_answers():
    folder = Path(pixmend.__file__).parent / "serve" / "page"
    texts = {path.name: path.read_text() for path in folder.glob("*.js")}
    assert {name for name in texts if "fetch(" in texts[name]} == {"api.js", "docs.js"}
    assert [name for name in texts if "backend.complete(" in texts[name]] == ["completer.js"]
    assert not any("'./api.js'" in text for text in texts.values())  # the settings name it
