"""The Context Encoder of Pathak et al. (2016) as a baseline, trained on all kinds of holes.

    python benchmarks/context_encoder.py train MODEL.safetensors RECORDS [--minutes 60]
                                         [--filters 64]
    python benchmarks/context_encoder.py complete MODEL.safetensors TASKS OUT

`train` resumes MODEL if it exists, until its training time is used up. `complete` completes the
tasks that `pixmend evaluate ... --tasks TASKS` wrote; evaluate its completions with `--completions
context-encoder=OUT`.

The architecture is that of section 3.1: 4 x 4 convolutions halve the image down to a 1 x 1
bottleneck, and transposed ones restore it (4,000 units at 128 px there, 8 per filter here). The
input is the image with its hole in the mean colour and, as the hole varies, the mask. The loss is
0.999 x squared error of the hole + 0.001 x adversarial loss of the completed image (equations 1 to
3; learning rates of section 4). There are no channel-wise layers.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pixmend.images import channel_count, encode_png, open_image
from pixmend.models import DCGANSettings, Discriminator, initialise
from pixmend.models.layers import Downsample, Upsample
from pixmend.records import Records
from pixmend.rng import generator_for
from pixmend.storage import write_bytes, write_text
from pixmend.training.masking import sample_masks

_BATCH = 64
_RATE, _RATE_D = 2e-3, 2e-4  # section 4: the encoder's rate is ten times the discriminator's
_RECONSTRUCTION, _ADVERSARIAL = 0.999, 0.001
_KEEP_EVERY = 120  # seconds
_FACTS = "facts.json"


class ContextEncoder(nn.Module):
    """Maps an image with a hole [B, C, S, S] and its mask [B, 1, S, S] to an image [B, C, S, S]."""

    def __init__(self, size: int, channels: int, filters: int) -> None:
        super().__init__()
        widths = [filters * 2**n for n in range(size.bit_length() - 3)]  # 4 px are left
        bottleneck = 8 * filters
        down: list[nn.Module] = [Downsample(channels + 1, widths[0], 4), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(widths):
            down += [Downsample(narrow, wide, 4), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
        down += [
            nn.Conv2d(widths[-1], bottleneck, 4),
            nn.BatchNorm2d(bottleneck),
            nn.LeakyReLU(0.2),
        ]
        up: list[nn.Module] = [nn.ConvTranspose2d(bottleneck, widths[-1], 4)]
        for wide, narrow in pairwise(widths[::-1]):
            up += [nn.BatchNorm2d(wide), nn.ReLU(), Upsample(wide, narrow, 4)]
        up += [nn.BatchNorm2d(widths[0]), nn.ReLU(), Upsample(widths[0], channels, 4)]
        self.layers = nn.Sequential(*down, *up, nn.Tanh())
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))

    def forward(self, images: Tensor, known: Tensor) -> Tensor:
        """Complete images in [-1, 1]; ``known`` is 1 or 0."""
        filled = torch.where(known > 0, images, self.mean)
        drawn: Tensor = self.layers(torch.cat([filled, known], 1))
        return torch.where(known > 0, images, drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    train_verb = verbs.add_parser("train")
    train_verb.add_argument("model", type=Path)
    train_verb.add_argument("records", type=Path)
    train_verb.add_argument("--minutes", type=float, default=60)
    train_verb.add_argument("--filters", type=int, default=64)
    complete_verb = verbs.add_parser("complete")
    complete_verb.add_argument("model", type=Path)
    complete_verb.add_argument("tasks", type=Path)
    complete_verb.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.verb == "train":
        train(options.model, Records(options.records), options.minutes, options.filters)
    else:
        complete(options.model, options.tasks, options.out)


def train(path: Path, records: Records, minutes: float, filters: int) -> None:
    """Train for ``minutes`` in all, and save the networks every two minutes."""
    images = records.load_all(2**34)
    assert images is not None
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    count, channels, size, _ = pixels.shape
    net = ContextEncoder(size, channels, filters)
    judge = Discriminator(DCGANSettings(size=size, channels=records.channels, filters=filters))
    for name, part in (("encoder", net), ("judge", judge)):
        initialise(part, generator_for(0, "context encoder", name))
    net.mean.copy_(pixels.float().mean((0, 2, 3)).view(1, -1, 1, 1) / 127.5 - 1)
    both = nn.ModuleDict({"net": net, "judge": judge})
    facts = {
        "size": size,
        "channels": records.channels,
        "filters": filters,
        "steps": 0,
        "seconds": 0.0,
    }
    if path.exists():
        both.load_state_dict(load_file(path))
        facts = facts_of(path)
    learns = torch.optim.Adam(net.parameters(), _RATE, betas=(0.5, 0.999))
    judges = torch.optim.Adam(judge.parameters(), _RATE_D, betas=(0.5, 0.999))
    started, kept = time.monotonic() - facts["seconds"], time.monotonic()
    while facts["seconds"] < 60 * minutes:
        draw = generator_for(0, "context encoder", "step", facts["steps"])
        chosen = torch.randint(count, (_BATCH,), generator=draw)
        real = pixels[chosen].float() / 127.5 - 1
        # The kind of hole depends on the position in the batch, the image does not.
        error = step(net, judge, learns, judges, real, sample_masks(_BATCH, size, draw))
        facts["steps"] += 1
        facts["seconds"] = time.monotonic() - started
        if time.monotonic() - kept > _KEEP_EVERY or facts["seconds"] >= 60 * minutes:
            keep(path, both, facts)
            kept = time.monotonic()
            print(
                f"{facts['steps']:,} steps, {facts['seconds']:.0f} s, squared error {error:.4f}",
                flush=True,
            )


def step(
    net: ContextEncoder,
    judge: Discriminator,
    learns: torch.optim.Optimizer,
    judges: torch.optim.Optimizer,
    real: Tensor,
    known: Tensor,
) -> float:
    """Take one step; return the squared error over the holes."""
    completed = net(real, known)
    loss_d = (F.softplus(-judge(real)).mean() + F.softplus(judge(completed.detach())).mean()) / 2
    judges.zero_grad()
    loss_d.backward()
    judges.step()
    hole = (1 - known).expand_as(real)
    error = ((completed - real).square() * hole).flatten(1).sum(1) / hole.flatten(1).sum(1)
    fooled = F.softplus(-judge(completed))
    loss = (_RECONSTRUCTION * error + _ADVERSARIAL * fooled).mean()
    learns.zero_grad()
    loss.backward()
    learns.step()
    return float(error.detach().mean())


def complete(model: Path, tasks: Path, out: Path) -> None:
    """Complete every task that has no completion yet."""
    facts = facts_of(model)
    net = ContextEncoder(facts["size"], channel_count(facts["channels"]), facts["filters"])
    weights = load_file(model)
    net.load_state_dict(
        {key[4:]: value for key, value in weights.items() if key.startswith("net.")}
    )
    net.eval().requires_grad_(False)
    todo = [
        path
        for path in sorted(tasks.glob("*/*.png"))
        if not (out / path.relative_to(tasks)).exists()
    ]
    started = time.perf_counter()
    for start in range(0, len(todo), _BATCH):
        part = todo[start : start + _BATCH]
        images = np.stack([open_image(path).pixels for path in part])
        masks = np.stack([open_image(path.parent / "masks" / path.name).pixels for path in part])
        target = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
        known = (torch.from_numpy(masks[..., :1].transpose(0, 3, 1, 2).copy()) < 128).float()
        drawn = ((net(target, known) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        for path, pixels in zip(part, drawn.permute(0, 2, 3, 1).numpy(), strict=True):
            place = out / path.relative_to(tasks)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(place, encode_png(pixels))
    if todo:
        each = (time.perf_counter() - started) / len(todo)
        write_text(out / _FACTS, json.dumps({"seconds_per_image": each}) + "\n")
    print(f"{len(todo)} answered")


def keep(path: Path, both: nn.ModuleDict, facts: dict[str, float]) -> None:
    """Write both networks and the facts of their training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({key: value.contiguous() for key, value in both.state_dict().items()}))
    write_text(path.with_suffix(".json"), json.dumps(facts) + "\n")


def facts_of(path: Path) -> dict[str, float]:
    """Read the facts of a saved network."""
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
