"""report.html stands alone, says what the run's files say, and lets no name become markup."""

import json
import re
import sys
import types
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pixmend.errors import SettingsError
from pixmend.images import encode_png
from pixmend.page import Point, Series, line_chart, scatter_chart
from pixmend.training import RunDirectory, train
from pixmend.training.run_report import write_report
from tests.training.test_monitor import SCORES


class Page(HTMLParser):
    """Collects tags, and checks that each that is opened is closed."""

    EMPTY = frozenset({"meta", "img", "input", "line", "path", "link", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run(tmp_path, tiny):
    """A run directory as training leaves it, with awkward names."""
    run = RunDirectory(tmp_path / "a <b>&run")
    run.samples.mkdir(parents=True)
    run.facts.write_text(json.dumps({"data": "<script>x</script>", "data_count": 1234}))
    run.split.write_text(json.dumps({"held_out": [1, 2, 3], "groups": ["a"]}))
    lines = [
        {"step": n, "loss_d": 1.0 + n, "loss_g": 2.0, "seconds": 61.0 * n, "images_per_second": 9.0}
        for n in range(1, 501)
    ]
    lines[6] |= {"loss_d": None, "loss_g": None}  # none of its steps had a loss that was finite
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5')
    psnr = {"center": 8.0, "half": 12.0, "random:0.8": 16.0}
    scores = replace(
        SCORES, best=True, psnr=psnr, psnr_of_mean=psnr, completion="search", nearest=0.9
    )
    later = replace(scores, step=8, best=False, warnings=("samples repeat: <i>0.1</i>",))
    run.scores.write_text("".join(json.dumps(asdict(each)) + "\n" for each in (scores, later)))
    for step in range(30):
        pixels = np.full((9, 7, 3), step, np.uint8)
        (run.samples / f"step-{step:08}.png").write_bytes(encode_png(pixels))
    return run


def test_the_page_stands_alone(run, tiny):
    write_report(run, tiny(), 500)
    page = Page(run.report.read_text())
    for tag, attributes in page.tags:
        source = attributes.get("src") or attributes.get("href") or ""
        assert source.startswith("data:") or source in ("", "samples.gif"), tag
    assert not re.search(r"https?://|@import|url\(", run.report.read_text())
    frames = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(frames) == 12
    assert [frame["data-step"] for frame in frames][::11] == ["0", "29"]
    assert sum("hidden" not in frame for frame in frames) == 1
    assert sum(tag == "figure" for tag, _ in page.tags) == 6


def test_names_and_warnings_become_text_never_markup(run, tiny):
    write_report(run, tiny(), 500)
    content = run.report.read_text()
    page = Page(content)
    said = "".join(page.text)
    assert "a <b>&run" in said
    assert "1,234 images of <script>x</script>, 3 held out, of 1 group" in said
    assert "Samples repeat: <i>0.1</i>." in said
    assert content.count("<script>") == 1
    assert "batch_size" in said


def test_a_run_without_monitor_log_or_samples_has_a_page_too(tmp_path, tiny):
    run = RunDirectory(tmp_path / "bare")
    run.path.mkdir()
    write_report(run, tiny(), 0)
    assert "No checkpoint was scored" in "".join(Page(run.report.read_text()).text)


@pytest.mark.parametrize(
    "points",
    [
        [(1, 2.0)],
        [(1, 2.0), (2, 2.0)],
        [(1, 0.0), (2, 0.0)],
        [(10, -1e-9), (20, 1e9)],
        [(step, float(step % 7)) for step in range(10_000)],
        [(1, 1.0), (2, float("nan")), (3, 3.0)],
    ],
)
def test_any_points_give_a_chart_within_its_frame(points):
    chart = line_chart("a", "b", [Series("c", points)])
    Page(chart)
    (path,) = re.findall(r'class="line s1" d="M([^"]*)"', chart)
    places = [tuple(map(float, place.split())) for place in path.split("L")]
    assert all(0 <= x <= 560 and 0 <= y <= 230 for x, y in places)
    assert len(places) <= 240


def test_higher_values_are_drawn_higher():
    chart = line_chart("a", "", [Series("c", [(1, 1.0), (2, 3.0)])])
    (path,) = re.findall(r'd="M([^"]*)"', chart)
    (x0, y0), (x1, y1) = (map(float, place.split()) for place in path.split("L"))
    assert x0 < x1
    assert y0 > y1


def test_nothing_to_draw_is_no_chart():
    assert line_chart("a", "b", [Series("c", [])]) == ""
    assert line_chart("a", "b", [Series("c", [(1, float("nan"))])]) == ""


def test_track_without_tensorboard_names_the_extra(records, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingsError, match=r"pip install 'pixmend\[tensorboard\]'"):
        next(train(records, tmp_path / "run", tiny(tensorboard=True)))


def test_track_writes_losses_scores_and_samples_under_their_steps(
    records, tiny, tmp_path, monkeypatch
):
    written = []

    class Writer:
        def __init__(self, folder):
            assert folder == str(tmp_path / "run" / "tensorboard")

        def add_scalar(self, name, value, step):
            written.append((name, step, type(value)))

        def add_image(self, name, pixels, step, dataformats):
            assert dataformats == "HWC"
            written.append((name, step, pixels.dtype.name))

        def flush(self):
            pass

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    list(train(records, tmp_path / "run", tiny(tensorboard=True, monitor=True)))
    assert ("training/loss_d", 2, float) in written
    assert ("monitor/kid", 8, float) in written
    assert [step for name, step, _ in written if name == "samples"] == [4, 8, 10]


def test_names_of_dots_lie_on_no_dot_and_on_no_other_name():
    found = {
        "telea": (0.0015, 11.12),
        "biharmonic": (0.016, 12.14),
        "instant, sharp": (0.103, 14.57),
        "default, sharp": (
            0.423,
            14.87,
        ),  # its name has room on its left only, where the next dot is
        "default, average": (0.116, 15.3),
    }
    points = [Point(name, *place, 1) for name, place in found.items()]
    chart = scatter_chart("a", "b", points, ("ours",), across="seconds")
    names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">([a-z, ]+)</text>', chart)
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart)
    assert len(names) == len(dots) == 5
    boxes = [(float(x), float(x) + 6.4 * len(name), float(y)) for x, y, name in names]
    boxes += [(float(x) - 4, float(x) + 4, float(y) + 4) for x, y in dots]
    for number, (left, right, line) in enumerate(boxes[:5]):
        for a, b, other in boxes[number + 1 :]:
            assert not (left < b and a < right and abs(line - other) < 11)


def test_a_line_to_be_held_against_is_dashed_in_the_drawing_and_in_the_legend():
    points = [(0.0, 0.0), (1.0, 1.0)]
    series = [Series("found", points), Series("foretold", points, dashed=True)]
    drawn = line_chart("t", "", series, across="x")
    assert 'class="key s1">found' in drawn
    assert 'class="key s2 dashed">foretold' in drawn
    assert drawn.count("dashed") == 2, "the line itself too"
