"""Whether an answer can be read: a small classifier of whole training images says of completions which class they are.

It reads 62 kinds of characters about as people do and costs half a minute; what counts are its rates beside its rate on the originals.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pixmend.evaluation.heldout import HeldOut, TrainingImages
from pixmend.evaluation.rivals import Images
from pixmend.rng import generator_for
from pixmend.storage import write_bytes

_STEPS, _BATCH, _RATE = 1200, 64, 4e-3
_WIDTHS = (16, 32, 64)
_FEWEST = 8  # training images of a class
_FEWEST_READ = 30  # held-out images with a label


@dataclass(frozen=True, eq=False)
class Reader:
    """A classifier and the classes it knows, in the order of its logits."""

    net: nn.Module
    classes: tuple[str, ...]

    @torch.no_grad()
    def read(self, images: Images) -> list[str]:
        """Return the class of each image, uint8 [N, S, S, C]."""
        parts = torch.split(_tensor(images), 256)
        return [self.classes[n] for part in parts for n in self.net(part).argmax(1).tolist()]


def unreadable(train: TrainingImages | None, held: HeldOut) -> str | None:
    """Return in words why no reading rate can be told, or None."""
    if train is None:
        return "the read rate needs --train-data RECORDS with labels"
    counts = _counts(train)
    if len(counts) < 2:
        return f"the read rate needs two classes of {_FEWEST} training images or more; pack folders of classes"
    count = sum(label in counts for label in _names(held.labels))
    if count < _FEWEST_READ:
        return f"the read rate needs {_FEWEST_READ} images of classes that the training data has, and {count} are"
    return None


def train_reader(train: TrainingImages, kept: Path, *, steps: int = _STEPS) -> Reader:
    """Return the classifier of these images, from the file ``kept`` if it is there: the folder's plan names the data."""
    counts = _counts(train)
    classes = tuple(sorted(counts))
    net = _net(train.images.shape[-1], len(classes))
    try:
        net.load_state_dict(load_file(kept))
        return Reader(net.eval(), classes)
    except (OSError, RuntimeError, SafetensorError):
        pass
    number = {name: place for place, name in enumerate(classes)}
    labels = np.array([number.get(name, -1) for name in _names(train.labels)])
    _learn(net, train.images, labels, steps)
    write_bytes(kept, save(net.state_dict()))
    return Reader(net.eval(), classes)


def _learn(net: nn.Module, images: Images, labels: NDArray[np.int64], steps: int) -> None:
    chosen = np.flatnonzero(labels >= 0)
    optimiser = torch.optim.Adam(net.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        for step in range(steps):
            draw = generator_for(0, "evaluate", "reader", step)
            rows = chosen[torch.randint(len(chosen), (_BATCH,), generator=draw).numpy()]
            loss = F.cross_entropy(net(_tensor(images[rows])), torch.from_numpy(labels[rows]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _net(channels: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for narrow, wide in zip((channels, *_WIDTHS), _WIDTHS, strict=False):
        layers += [nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
    net = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * _WIDTHS[-1], classes)
    )
    with torch.no_grad():
        for number, part in enumerate(net.modules()):
            if isinstance(part, nn.Conv2d | nn.Linear):
                draw = generator_for(0, "evaluate", "reader", "weights", number)
                nn.init.kaiming_normal_(part.weight, generator=draw)
                if part.bias is not None:
                    part.bias.zero_()
    return net


def _counts(train: TrainingImages) -> dict[str, int]:
    counts = Counter(name for name in _names(train.labels) if name)
    return {name: count for name, count in counts.items() if count >= _FEWEST}


def _names(labels: Sequence[str | int | None]) -> list[str]:
    return ["" if label in (None, -1) else str(label) for label in labels]


def _tensor(images: Images) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1
