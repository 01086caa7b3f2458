"""Legibility: a small classifier, trained on whole training images, predicts the class of answers.

It classifies 62 kinds of characters about as well as people, and trains in half a minute. Compare
its accuracy on answers with its accuracy on the originals.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from pixmend.evaluation.baselines import Images
from pixmend.evaluation.held_out import HeldOut, Label, TrainingImages
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.images import to_tensor
from pixmend.rng import generator_for
from pixmend.storage import write_bytes

_STEPS, _BATCH, _RATE = 1200, 64, 4e-3
_WIDTHS = (16, 32, 64)
_MIN_TRAINING = 8  # images of a class
_MIN_HELD_OUT = 30  # images of known classes


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network and its classes, in the order of its logits."""

    net: nn.Module
    classes: tuple[str, ...]

    @torch.no_grad()
    def predict(self, images: Images) -> list[str]:
        """Return the class of each image, uint8 [N, S, S, C]."""
        parts = torch.split(to_tensor(images), 256)
        return [self.classes[n] for part in parts for n in self.net(part).argmax(1).tolist()]


def missing_labels(train: TrainingImages | None, held_out: HeldOut) -> str | None:
    """Return why the classifier accuracy is unavailable, or None."""
    if train is None:
        return "classifier accuracy needs --train-data RECORDS with labels"
    classes = _classes(train)
    if len(classes) < 2:
        return (
            f"classifier accuracy needs two classes of at least {_MIN_TRAINING} training images; "
            "pack folders of classes"
        )
    count = sum(name in classes for name in _class_names(held_out.labels))
    if count < _MIN_HELD_OUT:
        return (
            f"classifier accuracy needs {_MIN_HELD_OUT} images of classes in the training data, "
            f"and there are {count}"
        )
    return None


def classify_answers(
    rows: Sequence[ResultRow], held_out: HeldOut, train: TrainingImages, store: ResultStore
) -> tuple[list[ResultRow], float]:
    """Return the rows with ``class_correct``, and the classifier's accuracy on the originals."""
    classifier = train_classifier(train, store.folder / "classifier.safetensors")
    names = _class_names(held_out.labels)
    truth = {n: name for n, name in enumerate(names) if name in classifier.classes}
    answers = {
        row.key: answer
        for row in rows
        if row.number in truth and (answer := store.read_answer(row.key)) is not None
    }
    classes = dict(zip(answers, classifier.predict(np.stack(list(answers.values()))), strict=True))
    rows = [
        replace(row, class_correct=float(classes[row.key] == truth[row.number]))
        if row.key in classes
        else row
        for row in rows
    ]
    originals = classifier.predict(held_out.images[list(truth)])
    hits = [predicted == name for predicted, name in zip(originals, truth.values(), strict=True)]
    return rows, float(np.mean(hits))


def train_classifier(train: TrainingImages, path: Path, *, steps: int = _STEPS) -> Classifier:
    """Return the classifier in the file ``path``, trained first if the file is missing."""
    classes = _classes(train)
    net = _initial_net(train.images.shape[-1], len(classes))
    try:
        net.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError):
        logits = {name: place for place, name in enumerate(classes)}
        labels = np.array([logits.get(name, -1) for name in _class_names(train.labels)])
        _fit(net, train.images, labels, steps)
        write_bytes(path, save(net.state_dict()))
    return Classifier(net.eval(), classes)


def _fit(net: nn.Module, images: Images, labels: NDArray[np.int64], steps: int) -> None:
    labelled = np.flatnonzero(labels >= 0)
    optimiser = torch.optim.Adam(net.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        for step in range(steps):
            generator = generator_for(0, "evaluate", "reader", step)
            places = torch.randint(len(labelled), (_BATCH,), generator=generator).numpy()
            rows = labelled[places]
            loss = F.cross_entropy(net(to_tensor(images[rows])), torch.from_numpy(labels[rows]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _initial_net(channels: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for narrow, wide in zip((channels, *_WIDTHS), _WIDTHS, strict=False):
        layers += [nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
    head = nn.Linear(16 * _WIDTHS[-1], classes)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), head)
    with torch.no_grad():
        for number, layer in enumerate(net.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                generator = generator_for(0, "evaluate", "reader", "weights", number)
                nn.init.kaiming_normal_(layer.weight, generator=generator)
        head.bias.zero_()
    return net


def _classes(train: TrainingImages) -> tuple[str, ...]:
    """Return the classes with enough training images, sorted."""
    counts = Counter(name for name in _class_names(train.labels) if name)
    return tuple(sorted(name for name, count in counts.items() if count >= _MIN_TRAINING))


def _class_names(labels: Sequence[Label]) -> list[str]:
    return ["" if label in (None, -1) else str(label) for label in labels]
