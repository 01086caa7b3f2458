"""Legibility: small classifiers, trained on training images, predict the class of answers.

One sees whole images; it classifies 62 kinds of characters about as well as people, and trains in
half a minute. Another sees the known pixels alone, which bounds what completions can be read.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pixmend.evaluation.baselines import Images
from pixmend.evaluation.held_out import HeldOut, Label, TrainingImages
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.images import to_tensor
from pixmend.masks import Mask
from pixmend.rng import generator_for
from pixmend.storage import write_bytes

_STEPS, _BATCH, _RATE = 1200, 64, 4e-3
_WIDTHS = (16, 32, 64)
_MASKS = 256  # of each SPEC, to train with
_MIN_TRAINING = 8  # images of a class
_MIN_HELD_OUT = 30  # images of known classes


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network and its classes, in the order of its logits."""

    net: nn.Module
    classes: tuple[str, ...]

    @torch.no_grad()
    def predict(self, images: Images, masks: Sequence[Mask] | None = None) -> list[str]:
        """Return the class of each image, uint8 [N, S, S, C]; with masks, from its known pixels."""
        parts = torch.split(_inputs(images, masks), 256)
        return [self.classes[n] for part in parts for n in self.net(part).argmax(1).tolist()]


def classify_answers(
    rows: list[ResultRow],
    held_out: HeldOut,
    train: TrainingImages | None,
    spec: EvaluationSpec,
    store: ResultStore,
) -> tuple[list[ResultRow], dict[str, Any], str | None]:
    """Return rows with ``class_correct``, what bounds it, and why they are missing.

    The bounds are the accuracy on the originals and, by mask, on their known pixels alone.
    """
    bounds: dict[str, Any] = {"originals_class_correct": None, "known_pixels_class_correct": None}
    if train is None:
        return rows, bounds, "classifier accuracy needs --train-data RECORDS with labels"
    classes = known_classes(train)
    truth = {n: name for n, name in enumerate(_class_names(held_out.labels)) if name in classes}
    needs = None
    if len(classes) < 2:
        needs = f"two classes of at least {_MIN_TRAINING} training images; pack folders of classes"
    elif len(truth) < _MIN_HELD_OUT:
        needs = f"{_MIN_HELD_OUT} images of the training data's classes, and there are {len(truth)}"
    if needs:
        return rows, bounds, f"classifier accuracy needs {needs}"
    classifier = train_classifier(train, store.folder / "classifier.safetensors")
    answers = {
        row.key: answer
        for row in rows
        if row.number in truth and (answer := store.read_answer(row.key)) is not None
    }
    classes_of = classifier.predict(np.stack(list(answers.values())))
    correct = {
        key: float(name == truth[key[0]]) for key, name in zip(answers, classes_of, strict=True)
    }
    rows = [replace(row, class_correct=correct.get(row.key, row.class_correct)) for row in rows]
    originals, names = held_out.images[list(truth)], list(truth.values())

    def accuracy(reader: Classifier, masks: Sequence[Mask] | None = None) -> float:
        return float(np.mean(np.equal(reader.predict(originals, masks), names)))

    def read_known_pixels() -> dict[str, float]:
        masked, size = train_masked_classifier(train, spec), originals.shape[1]
        masks = {mask: draw_masks(mask, list(truth), size, spec.seed) for mask in spec.masks}
        return {each: accuracy(masked, masks[each]) for each in masks}

    key = f"known pixels {','.join(spec.masks)} {len(held_out.images)}"
    bounds["originals_class_correct"] = accuracy(classifier)
    bounds["known_pixels_class_correct"] = store.cached(key, read_known_pixels)
    return rows, bounds, None


def train_classifier(train: TrainingImages, path: Path, *, steps: int = _STEPS) -> Classifier:
    """Return the classifier in the file ``path``, trained first if the file is missing."""
    classes = known_classes(train)
    net = _initial_net(train.images.shape[-1], len(classes), "reader")
    try:
        net.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError):
        _fit(net, train, None, steps)
        write_bytes(path, save(net.state_dict()))
    return Classifier(net.eval(), classes)


def train_masked_classifier(
    train: TrainingImages, spec: EvaluationSpec, *, steps: int = _STEPS
) -> Classifier:
    """Return a classifier of images with holes of all masks, twice as deep as the other."""
    size, channels = train.images.shape[2:]
    # With another seed than the evaluation, whose masks are unseen.
    masks = [draw_masks(mask, range(_MASKS), size, spec.seed + 1) for mask in spec.masks]
    classes = known_classes(train)
    net = _initial_net(channels + 1, len(classes), "masked reader", depth=2)
    _fit(net, train, list(chain(*masks)), steps)
    return Classifier(net.eval(), classes)


def _fit(net: nn.Module, train: TrainingImages, masks: list[Mask] | None, steps: int) -> None:
    """Train on images, whole or with random ones of ``masks``."""
    places = {name: place for place, name in enumerate(known_classes(train))}
    labels = np.array([places.get(name, -1) for name in _class_names(train.labels)])
    labelled = np.flatnonzero(labels >= 0)
    optimiser = torch.optim.Adam(net.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        for step in range(steps):
            generator = generator_for(0, "evaluate", "reader", step)
            rows = labelled[torch.randint(len(labelled), (_BATCH,), generator=generator).numpy()]
            own = None
            if masks is not None:
                drawn = torch.randint(len(masks), (_BATCH,), generator=generator).tolist()
                own = [masks[number] for number in drawn]
            outputs = net(_inputs(train.images[rows], own))
            loss = F.cross_entropy(outputs, torch.from_numpy(labels[rows]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _initial_net(channels: int, classes: int, key: str, depth: int = 1) -> nn.Module:
    """Return a network of three scales with ``depth`` convolutions each."""
    layers: list[nn.Module] = []
    for narrow, wide in pairwise((channels, *_WIDTHS)):
        for width, stride in ((narrow, 2), *[(wide, 1)] * (depth - 1)):
            convolution = nn.Conv2d(width, wide, 3, stride, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(wide), nn.ReLU()]
    head = nn.Linear(16 * _WIDTHS[-1], classes)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), head)
    with torch.no_grad():
        for number, layer in enumerate(net.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                generator = generator_for(0, "evaluate", key, "weights", number)
                nn.init.kaiming_normal_(layer.weight, generator=generator)
        head.bias.zero_()
    return net


def _inputs(images: Images, masks: Sequence[Mask] | None) -> Tensor:
    """Return [N, C, S, S]; with masks mid-grey holes, and the masks as one more channel."""
    if masks is None:
        return to_tensor(images)
    known = torch.from_numpy(np.stack([mask.known for mask in masks]))[:, None].float()
    return torch.cat([to_tensor(images) * known, known], 1)


def known_classes(train: TrainingImages) -> tuple[str, ...]:
    """Return the classes with enough training images, sorted."""
    counts = Counter(name for name in _class_names(train.labels) if name)
    return tuple(sorted(name for name, count in counts.items() if count >= _MIN_TRAINING))


def _class_names(labels: Sequence[Label]) -> list[str]:
    return ["" if label in (None, -1) else str(label) for label in labels]
