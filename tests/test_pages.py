"""The reports as people see them: opened from disk in a real browser, alone, in light and dark, on paper and on a phone."""

from pathlib import Path

import numpy as np
import pytest

import pixmend
from pixmend.evaluation import (
    EvaluationImages,
    EvaluationSpec,
    ModelUnderTest,
    TrainingImages,
    evaluate,
)
from pixmend.images import encode_png
from tests.browser import audit, watched

SHOTS = Path(__file__).parent / "shots"  # written where the folder is, to be looked at
PIXELS = np.random.default_rng(1).integers(0, 256, (24, 16, 16, 1), np.uint8)

# The words of charts that reach beyond them.
CUT_OFF = """[...document.querySelectorAll("svg text")].filter(text => {
    const box = text.getBBox(), whole = text.ownerSVGElement.viewBox.baseVal;
    return box.x < 0 || box.x + box.width > whole.width || box.y < 0 || box.y + box.height > whole.height;
}).map(text => text.textContent)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six families of four images, as files."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(PIXELS):
        (folder / f"family{number % 6}-{number}.png").write_bytes(encode_png(pixels))
    return folder


def evaluated(model, folder, out):
    paths = sorted(folder.iterdir())
    training = TrainingImages(255 - PIXELS, [path.name for path in paths], [None] * 24, "digest")
    evaluate(
        [ModelUnderTest(model)],
        EvaluationImages.of_files(paths, [path.name for path in paths]),
        out,
        EvaluationSpec(
            masks=("center", "half"),
            methods=["classic:0.01", "mean", "nearest"],
            count=12,
            candidates=2,
            batch=12,
        ),
        train=training,
    )


def trained(model, folder, out):
    settings = {"size": 16, "channels": "L", "filters": 4, "batch_size": 8, "grid_images": 4}
    pixmend.train(folder, out, settings=settings | {"steps": 4, "checkpoint_every": 2})


@pytest.mark.parametrize("make", [evaluated, trained])
def test_a_report_opens_from_disk_and_is_legible_in_light_dark_and_on_a_phone(
    make, browser, untrained, folder, tmp_path
):
    make(untrained("L"), folder, tmp_path / "out")
    address = (tmp_path / "out" / "report.html").as_uri()
    faults = []
    for scheme in ("light", "dark"):
        for width in (1200, 390):
            context = browser.new_context(
                color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True
            )
            page = watched(context, faults, allowed=(address, "data:"))
            page.goto(address)
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            # Wide tables scroll within themselves; the page does not.
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CUT_OFF) == []
            audit(page)
            if SHOTS.is_dir():
                page.screenshot(
                    path=SHOTS / f"{make.__name__}-{scheme}-{width}.png", full_page=True
                )
            context.close()
    assert not faults
