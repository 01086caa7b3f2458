"""Rivals trained for equal minutes: hole PSNR and read rate on held-out images.

    python -m benchmarks.rivals TRAIN HELD_OUT OUT [--minutes 20] [--model RUN]

TRAIN and HELD_OUT are folders of PNG files, in folders of classes if there are any; HELD_OUT may
be tasks that `pixmend evaluate ... --tasks HELD_OUT` wrote. Each rival trains on the whole machine
for the minutes, one after the other; on a CPU they are computing time divided by the threads. It
writes OUT/RIVAL/MASK/000000.png, which `pixmend evaluate ... --completions RIVAL=OUT/RIVAL` reads.
RUN adds pixmend's own methods, to be trained with `pixmend train TRAIN RUN --minutes 20`. Prints a
markdown table of mean dB and, with classes, of the share of answers that a small classifier of
whole training images reads. A rival that samples has a row for one sample and one for the mean of
eight.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.rivals.context_encoder import ContextEncoder
from benchmarks.rivals.flow_matching import FlowMatching
from benchmarks.rivals.lmconv import LocallyMasked
from benchmarks.rivals.rcgan import RegularizedGAN
from pixmend.evaluation import BASELINES, TrainingImages, find_methods
from pixmend.evaluation.baselines import channels_first, find_baseline, missing_requirement
from pixmend.evaluation.classifier import known_classes, train_classifier
from pixmend.evaluation.metrics import psnr
from pixmend.evaluation.settings import draw_masks
from pixmend.images import (
    encode_png,
    fit_square,
    open_image,
    to_channels,
    to_eight_bits,
    to_pixels,
    to_tensor,
)
from pixmend.masks import Mask
from pixmend.models import load_model
from pixmend.storage import write_bytes
from pixmend.training.masking import sample_masks

RIVALS = {
    "context-encoder": ContextEncoder,
    "flow-matching": FlowMatching,
    "rcgan": RegularizedGAN,
    "lmconv": LocallyMasked,
}
Rival = ContextEncoder | FlowMatching | RegularizedGAN | LocallyMasked
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MASKS = ("center", "half", "random:0.8", "grid", "strokes")
BATCH, AVERAGED = 64, 8

Images = NDArray[np.uint8]  # [N, S, S, C]


@dataclass(frozen=True)
class HeldOutTasks:
    """Images with their masks by SPEC; no truth for tasks whose originals are not known."""

    images: dict[str, Images]
    masks: dict[str, list[Mask]]
    labels: list[str]
    has_truth: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rivals", nargs="*", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--model", help="pixmend's model, for its own methods")
    parser.add_argument("--minutes", type=float, default=20, help="training time of each rival")
    parser.add_argument("--steps", type=int, help="training steps, in place of the minutes")
    parser.add_argument("--masks", nargs="+", default=MASKS)
    parser.add_argument("--images", type=int, default=512, help="held-out images")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    paths = sorted(options.train.rglob("*.png"))
    mode = MODES[open_image(paths[0]).pixels.shape[-1]]
    images, labels = read_images(paths, options.size, mode), [path.parent.name for path in paths]
    train = TrainingImages(images, [path.name for path in paths], labels, "")
    tasks = read_held_out(options, mode)
    read_rate = reader(train, options.out) if tasks.has_truth else None
    columns = ["dB"] * tasks.has_truth + ["read"] * (read_rate is not None)
    heads = [f"{mask} {column}" for mask in tasks.masks for column in columns]
    print(f"| | {' | '.join(heads)} |\n{'|---' * (len(heads) + 1)}|")
    for name, answers in contestants(options, train, tasks):
        cells = []
        for shape, masks in tasks.masks.items():
            own, truth = answers[shape], tasks.images[shape]
            write_answers(options.out / name.replace(", ", "-") / shape.replace(":", "-"), own)
            if tasks.has_truth:
                scores = [psnr(*case, m.hole) for *case, m in zip(own, truth, masks, strict=True)]
                cells.append(f"{np.mean(scores):.2f}")
            if read_rate:
                cells.append(f"{read_rate(own, tasks.labels):.3f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def contestants(
    options: argparse.Namespace, train: TrainingImages, tasks: HeldOutTasks
) -> Iterator[tuple[str, dict[str, Images]]]:
    """Yield names and answers by mask: baselines, pixmend's methods, then each rival."""
    if tasks.has_truth:
        names = [name for name in BASELINES if missing_requirement(name, train.images) is None]
        for name in names:
            inpaint = find_baseline(name, train.images)
            answers = {mask: inpaint(tasks.images[mask], own) for mask, own in tasks.masks.items()}
            yield name, {mask: keep_known(tasks, mask, own) for mask, own in answers.items()}
    if options.model:
        for method in find_methods(["instant", "default"], load_model(options.model), None):
            yield (
                method.label,
                {
                    mask: np.stack([each.pixels for each in method.run(images, own, lambda: False)])
                    for mask, own in tasks.masks.items()
                    for images in [tasks.images[mask]]
                },
            )
    for name in options.rivals:
        rival = trained(name, channels_first(train.images), options)
        yield name, complete(rival, tasks, options.device)
        if rival.stochastic:
            yield f"{name}, mean of {AVERAGED}", complete(rival, tasks, options.device, AVERAGED)


def trained(name: str, images: Tensor, options: argparse.Namespace) -> Rival:
    """Return a rival after its minutes, or its steps, on images uint8 [N, C, S, S]."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    rival = RIVALS[name](images, options.filters).to(device)
    rival.train()
    on = options.precision == "bfloat16"
    generator = torch.Generator().manual_seed(0)
    step, loss, started = 0, 0.0, seconds_used(device)
    while (
        step < options.steps
        if options.steps
        else seconds_used(device) - started < 60 * options.minutes
    ):
        places = torch.randint(len(images), (BATCH,), generator=generator)
        known = sample_masks(BATCH, images.shape[-1], generator).to(device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=on)
        loss = rival.learn(images[places].to(device).float() / 127.5 - 1, known, autocast)
        step += 1
    seconds = seconds_used(device) - started
    print(f"{name}: {step:,} steps in {seconds:.0f} s, last loss {loss:.4f}", flush=True)
    return rival


def seconds_used(device: torch.device) -> float:
    """Return seconds by the clock; on a CPU of computing, which others do not lengthen."""
    if device.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    return time.monotonic()


@torch.no_grad()
def complete(rival: Rival, tasks: HeldOutTasks, device: str, draws: int = 1) -> dict[str, Images]:
    """Return the answers by mask: the mean of ``draws``."""
    torch.manual_seed(1)
    rival.train(False)
    answers = {}
    for shape, masks in tasks.masks.items():
        known = torch.from_numpy(np.stack([mask.known for mask in masks]))[:, None].float()
        pairs = zip(to_tensor(tasks.images[shape]).split(BATCH), known.split(BATCH), strict=True)
        parts = [
            sum(rival.complete(*(each.to(device) for each in pair)) for _ in range(draws)) / draws
            for pair in pairs
        ]
        answers[shape] = keep_known(tasks, shape, to_pixels(torch.cat(parts)))
    return answers


def keep_known(tasks: HeldOutTasks, shape: str, answers: Images) -> Images:
    """Return answers with the known pixels of the images."""
    known = np.stack([mask.known for mask in tasks.masks[shape]])[..., None]
    return np.where(known, tasks.images[shape], answers)


def read_held_out(options: argparse.Namespace, mode: str) -> HeldOutTasks:
    """Read a folder of images, the first of a random order, or one of tasks."""
    facts = options.held_out / "tasks.json"
    if facts.exists():
        shapes = json.loads(facts.read_text())["masks"]
        folders = {shape: options.held_out / shape.replace(":", "-") for shape in shapes}
        paths = {shape: sorted(folder.glob("*.png")) for shape, folder in folders.items()}
        images = {shape: read_images(own, options.size, mode) for shape, own in paths.items()}
        masks = {
            shape: [
                Mask.from_pixels(open_image(path.parent / "masks" / path.name).pixels)
                for path in own
            ]
            for shape, own in paths.items()
        }
        return HeldOutTasks(images, masks, [], has_truth=False)
    paths = sorted(options.held_out.rglob("*.png"))
    order = np.random.default_rng(0).permutation(len(paths))[: options.images]
    paths = [paths[place] for place in order]
    images = read_images(paths, options.size, mode)
    masks = {
        shape: draw_masks(shape, range(len(paths)), options.size, 0) for shape in options.masks
    }
    labels = [path.parent.name for path in paths]
    return HeldOutTasks(dict.fromkeys(masks, images), masks, labels, has_truth=True)


def read_images(paths: list[Path], size: int, mode: str) -> Images:
    """Read images, cropped and resized to squares."""
    pictures = (to_channels(to_eight_bits(open_image(path).pixels), mode) for path in paths)
    return np.stack([fit_square(pixels, size, "crop") for pixels in pictures])


def reader(train: TrainingImages, out: Path):  # noqa: ANN201 - a function or None
    """Return a function of answers and labels: the share read; None without two classes."""
    if len(known_classes(train)) < 2:
        return None
    classifier = train_classifier(train, out / "classifier.safetensors")
    return lambda answers, labels: float(np.mean(np.equal(classifier.predict(answers), labels)))


def write_answers(folder: Path, answers: Images) -> None:
    """Write answers under the names of their tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(answers):
        write_bytes(folder / f"{number:06}.png", encode_png(pixels))


if __name__ == "__main__":
    main()
