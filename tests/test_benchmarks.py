"""The benchmarks run: a table nobody can make again proves nothing. Their figures are not looked at here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.rivals.lmconv import LEVELS, LocallyMasked, quantise
from pixmend.images import encode_png, open_image
from pixmend.models import save_model
from pixmend.records import PackSettings, pack
from tests.forked import script

ROOT = Path(__file__).parent.parent
TINY_RUN = ("filters=4", "batch_size=4", "latent_dim=6", "inpainter_filters=8", "held_out=0.2")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(24):
        pixels = generator.integers(0, 256, (16, 16, 1), np.uint8)
        (folder / f"{index:02}.png").write_bytes(encode_png(pixels))
    out = tmp_path_factory.mktemp("records") / "packed"
    pack(folder, out, PackSettings(size=16, channels="L"), workers=1)
    return out


def table_of(name, *arguments):
    ran = script(ROOT / "benchmarks" / name, *arguments)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [line for line in ran.stdout.splitlines() if line.startswith("|")]


def test_training_is_timed_beside_the_plain_loop():
    tiny = ("--size", 16, "--filters", 8, "--batch", 4, "--steps", 1, "--threads", 1)
    rows = table_of("training.py", *tiny)
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "plain eager loop",
        "float32",
        "bfloat16",
    ]


def test_reading_is_measured_at_each_count():
    rows = table_of("loading.py", "--images", 40, 80, "--size", 16, "--read", 128)
    assert [row.split("|")[1].strip() for row in rows[-2:]] == ["40", "80"]


def test_options_of_training_are_compared(records, tmp_path):
    tiny = ("--steps", 2, "--variants", "default", "r1_gamma", "--set", "filters=4", "batch_size=4")
    rows = table_of("ablation.py", tmp_path / "out", records, *tiny)
    assert any("default" in row for row in rows)
    assert any("r1" in row for row in rows)


def test_methods_are_compared_with_the_mean_and_the_nearest_image(records, untrained, tmp_path):
    save_model(untrained("L"), tmp_path / "m.safetensors")
    tiny = ("--images", 2, "--masks", "center", "--methods", "default:0.002", "classic:0.002")
    rows = table_of("completion.py", tmp_path / "m.safetensors", records, records, *tiny)
    assert "| center PSNR | SSIM |" in rows[0]
    names = [row.split(" | ")[0] for row in rows[2:]]
    assert {"| mean", "| nearest"} < set(names)
    assert names[-2:] == ["| default:0.002, sharp", "| classic:0.002, sharp"]
    # The held-out images are the training images here, so the nearest is the image itself.
    assert "| nearest | 68.13 | 1.000 |" in "\n".join(rows)


def test_the_time_to_the_same_quality_is_measured(records):
    tiny = ("--minutes", 0.01, "--every", 1, "--filters", 4, "--batch", 4, "--threads", 1)
    augmented = ("--ours", "r1_gamma=1", "diffaugment=translation")
    rows = table_of("quality.py", records, records, *tiny, *augmented)
    loops = ("plain eager loop", "pixmend", "pixmend, r1_gamma=1 diffaugment=translation")
    assert rows[0] == "| step | " + " | ".join(f"{name}: s | KID x 1000" for name in loops) + " |"
    assert rows[2].startswith("| 1 |")


def test_variants_of_the_inpainter_are_compared(records, tmp_path):
    tiny = ("--minutes", 0.02, "--filters", 8, "--batch", 4, "--memory", 8)
    rows = table_of("inpainters.py", tmp_path / "out", records, *tiny)
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| no inpainter",
        "| (a) inpainter",
        "| (b) with retrieval",
        "| (c) as (b), one draw",
        "| (d) as (b), two draws",
    ]


def test_all_tables_are_made_by_one_command_that_goes_on(tmp_path):
    tiny = ("--profile", "tiny", "--only", "packing", "evaluate", "--out", tmp_path)
    for words in (["packing: made", "evaluate: made"], []):
        ran = script(ROOT / "benchmarks" / "everything.py", *tiny)
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert [line.rpartition(" in ")[0] for line in ran.stdout.splitlines()] == words
    assert "| workers |" in (tmp_path / "tiny" / "packing.md").read_text()
    assert (tmp_path / "tiny" / "report" / "report.html").exists()
    facts = json.loads((tmp_path / "tiny" / "machine.json").read_text())
    assert {"cpu", "date", "seeds", "versions"} <= set(facts)


def test_the_cost_of_an_image_is_measured_and_reckoned_with(tmp_path):
    costs = tmp_path / "costs.json"
    table_of("costs.py", "--images", 65, "--steps", 1, "--complete", 1, "--out", costs)
    kept = json.loads((ROOT / "benchmarks" / "costs" / "measured.json").read_text())
    assert json.loads(costs.read_text()).keys() == kept.keys()
    few = ("--images", 10**6, "--cores", 64, "--gpus", 8, "--workers", 5, "--simulated", 10**5)
    rows = table_of("scale.py", "--costs", costs, *few)
    assert sum(row.startswith("| 10^6 |") for row in rows) == 3
    assert sum(row.startswith(("| pack |", "| complete,")) for row in rows) == 6


def test_no_benchmark_is_forgotten():
    source = (ROOT / "benchmarks" / "everything.py").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        others = ("everything.py", "gpu.py", "stragglers.py", "tensorflow_interop.py")
        aside = path.name in others
        assert aside or f'"{path.name}"' in source, path.name


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Folders of two classes: a training folder and a held-out one."""
    folder = tmp_path_factory.mktemp("classes")
    draw = np.random.default_rng(0)
    for part, count in (("train", 24), ("held_out", 6)):
        for index in range(count):
            level = 60 + 130 * (index % 2)
            path = folder / part / f"class{index % 2}" / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = level + draw.integers(-40, 40, (16, 16, 1))
            path.write_bytes(encode_png(pixels.astype(np.uint8)))
    return folder


def rivals(*arguments):
    tiny = ("--steps", 2, "--size", 16, "--filters", 8)
    ran = script(ROOT / "benchmarks" / "rivals" / "__main__.py", *arguments, *tiny)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout.splitlines()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rivals_learn_answer_and_are_read(classes, precision):
    given = ("--masks", "half", "random:0.8", "--precision", precision)
    lines = rivals(classes / "train", classes / "held_out", classes / "out", *given)
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0] == "| | half dB | half read | random:0.8 dB | random:0.8 read |"
    names = [row.split("|")[1].strip() for row in rows[2:]]
    assert {"mean", "nearest", "biharmonic", "context-encoder"} <= set(names)
    samplers = ("flow-matching", "rcgan", "lmconv")
    assert names[-6:] == [name + mean for name in samplers for mean in ("", ", mean of 8")]
    assert any(line.startswith("flow-matching: 2 steps in") for line in lines)
    for row in rows[2:]:
        decibels, read = map(float, row.split("|")[2:4])
        assert 4 < decibels < 40
        assert 0 <= read <= 1
    known = [
        open_image(classes / "out" / name / "half" / "000000.png").pixels[:, 8:]
        for name in ("mean", "context-encoder", *samplers)
    ]
    assert all(np.array_equal(known[0], each) for each in known[1:])


def test_the_pixel_sampler_draws_each_pixel_from_those_before_it_alone():
    torch.manual_seed(0)
    rival = LocallyMasked(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), filters=8)
    images, known = torch.rand(3, 1, 8, 8) * 2 - 1, (torch.rand(3, 1, 8, 8) < 0.3).float()
    whole, drawn = rival.draw, []
    rival.draw = lambda logits: drawn.append(logits) or whole(logits)
    with torch.no_grad():
        levels = quantise(rival.complete(images, known))
        logits = rival.logits(levels, known).flatten(3)
        hidden = [each.flatten().eq(0).nonzero().flatten() for each in known]
        for number, places in enumerate(hidden):
            own = [each[number] for each in drawn[-len(places) :]]
            assert torch.allclose(torch.stack(own, -1), logits[number][..., places], atol=1e-5)
            for before, place in enumerate(places):
                other = levels.clone()
                other[number].view(-1)[place] = (levels[number].view(-1)[place] + 5) % LEVELS
                changed = rival.logits(other, known).flatten(3)[number] - logits[number]
                assert not changed[..., places[: before + 1]].any()
                assert not changed[..., known[number].flatten() > 0].any()


def test_rivals_answer_the_tasks_of_an_evaluation(classes, untrained, program, tmp_path):
    save_model(untrained("L"), tmp_path / "m.safetensors")
    evaluation = ("evaluate", tmp_path / "m.safetensors", classes / "held_out")
    options = ("--masks", "half,grid", "--n", 6, "--methods", "biharmonic")
    program(*evaluation, *options, "--tasks", tmp_path / "tasks")
    lines = rivals(classes / "train", tmp_path / "tasks", tmp_path, "--rivals", "context-encoder")
    assert lines[-1].startswith("| context-encoder |")
    answers = f"rival={tmp_path / 'context-encoder'}"
    ran = program(*evaluation, *options, "--out", tmp_path / "out", "--completions", answers)
    assert ran.code == 0, ran.err
    assert "rival" in ran.out


def test_a_server_under_load_answers_each_request_with_its_own_image():
    tiny = ("--seconds", 0.3, "--clients", 2, "--methods", "instant", "--batch", 4)
    rows = table_of("serving.py", *tiny)
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:]]
    assert [cell[1:3] for cell in cells] == [["none", "4"], ["2", "4"], ["2", "1"]]
    assert {len(cell) for cell in cells} == {11}
    assert [cell[-1] for cell in cells] == ["", "0", "0"]


def test_methods_are_timed_beside_a_search_and_their_cost_is_told():
    tiny = ("--images", 1, "--rounds", 1, "--timed", 1, "--reach", 2, "--searches", "yeh")
    few = ("--compared", 1, "--batches", "--candidates", 2, "--batch", 1)
    rows = table_of("speed.py", *tiny, *few)
    assert rows[0] == "| method | batch | hole PSNR, dB | s/image | yeh / it |"
    methods = ["yeh", "instant", "default", "default, average", "method", "---"]
    assert [row.split("|")[1].strip() for row in rows[2:8]] == methods
    assert rows[-1].startswith("| default | 4 | 1 | 2 |")


def test_settings_of_the_search_are_compared_and_seams_told():
    rows = table_of(
        "settings.py", "--images", 1, "--masks", "center", "--steps", 1, "--restarts", 1
    )
    names = [row.split("|")[1].strip() for row in rows]
    assert {"window 15", "lambda 1", "norm prior 0.1", "bank 2048", "4 restarts"} < set(names)
    assert names[-3:] == ["paste", "feather", "poisson"]
