"""What tests of the page do on it."""

from pathlib import Path

from pixmend.models import BUNDLED

EXAMPLE = BUNDLED / "characters" / "Sample011" / "keraleeyam__regular.png"
SHOTS = Path(__file__).parent / "shots"  # written where the folder is, to be looked at


def shoot(page, name):
    if SHOTS.is_dir():
        page.screenshot(path=SHOTS / f"{name}.png")


def choose(page, file=EXAMPLE):
    page.set_input_files("#file", file)
    # A second image replaces the first one some time after.
    page.locator("#image-facts", has_text=Path(file).name).wait_for(state="attached")


def drag(page, *points):
    """Drag over the stage between points, given as fractions of the image."""
    box = page.locator("#stage").bounding_box()
    side = min(box["width"], box["height"]) - 80  # of a square that the fitted image covers, nearly
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    places = [(left + x * side, top + y * side) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def missing(page):
    return int(
        page.inner_text("#mask-facts").split(" ")[0].replace(",", "").replace("Nothing", "0")
    )


def drawn(page):
    return page.evaluate("document.getElementById('stage').toDataURL()")


def completed(page):
    page.click("#go")
    page.wait_for_selector("#gallery button[aria-pressed=true]")
    page.locator("#status", has_text="Done").wait_for()


def downloaded(page, button="#download"):
    with page.expect_download() as waiting:
        page.click(button)
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()
