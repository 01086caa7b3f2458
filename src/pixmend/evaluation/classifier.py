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


def classify_answers(
    rows: list[ResultRow], held_out: HeldOut, train: TrainingImages | None, store: ResultStore
) -> tuple[list[ResultRow], float | None, str | None]:
    """Return rows with ``class_correct``, the accuracy on the originals, and why it is missing."""
    if train is None:
        return rows, None, "classifier accuracy needs --train-data RECORDS with labels"
    classes = _classes(train)
    truth = {n: name for n, name in enumerate(_class_names(held_out.labels)) if name in classes}
    needs = None
    if len(classes) < 2:
        needs = f"two classes of at least {_MIN_TRAINING} training images; pack folders of classes"
    elif len(truth) < _MIN_HELD_OUT:
        needs = f"{_MIN_HELD_OUT} images of the training data's classes, and there are {len(truth)}"
    if needs:
        return rows, None, f"classifier accuracy needs {needs}"
    classifier = train_classifier(train, store.folder / "classifier.safetensors")
    answers = {
        row.key: answer
        for row in rows
        if row.number in truth and (answer := store.read_answer(row.key)) is not None
    }
    predicted = classifier.predict(np.stack(list(answers.values())))
    correct = {
        key: float(name == truth[key[0]]) for key, name in zip(answers, predicted, strict=True)
    }
    originals = classifier.predict(held_out.images[list(truth)])
    hits = [name == truth[n] for n, name in zip(truth, originals, strict=True)]
    rows = [replace(row, class_correct=correct.get(row.key, row.class_correct)) for row in rows]
    return rows, float(np.mean(hits)), None


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
