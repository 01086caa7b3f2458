"""Measure the training time to equal quality: pixmend against the plain loop on the same images.

    python benchmarks/quality.py RECORDS HELD_OUT [--minutes 5] [--filters 48] [--threads 2]
                                 [--ours r1_gamma=1 diffaugment=translation]

All loops take turns in one process, one step each, on the same images, each with its own clock. The
plain loop (`training.PlainLoop`) is that of PyTorch's public DCGAN tutorial. At regular steps the
KID (Binkowski 2018, in the features of a run's monitor) of 1,024 samples against as many images of
held-out groups is measured: for the plain loop with its generator and running batch statistics, for
pixmend with the EMA generator that a run exports. Each `--ours` adds a pixmend loop with these
settings beside the default one. Prints the curves, and for each loop the fraction of the plain
loop's time after which it reached the plain loop's best and last score.
"""

import argparse
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from packing import cpu_name
from torch import Tensor
from training import PlainLoop

from pixmend.features import choose_features, kernel_distance
from pixmend.models import sample_latents
from pixmend.records import Records
from pixmend.rng import generator_for
from pixmend.training import TrainSettings, parse_overrides, resolve
from pixmend.training.augment import Transform, make_diffaugment
from pixmend.training.data import Shuffle, to_device
from pixmend.training.export import recompute_batchnorm
from pixmend.training.step import discriminator_step, generator_step
from pixmend.training.train_state import initial_state

_CPU = torch.device("cpu")
_SAMPLES = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--minutes", type=float, default=5, help="time of all loops together")
    parser.add_argument("--every", type=int, default=100, help="steps between scores")
    parser.add_argument("--filters", type=int, default=48)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ours", nargs="+", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    records, held_out = Records(options.records), Records(options.held_out)
    shared = {
        "size": records.size,
        "channels": records.channels,
        "filters": options.filters,
        "batch_size": options.batch,
    }
    settings = resolve(shared)
    loops: dict[str, Plain | Ours] = {
        "plain eager loop": Plain(settings),
        "pixmend": Ours(settings),
    }
    for pairs in options.ours:
        loops[f"pixmend, {' '.join(pairs)}"] = Ours(resolve(shared, parse_overrides(pairs)))
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, {options.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"{len(records):,} images, {len(held_out):,} held out, {records.size} px, {settings.filters} filters, batch {settings.batch_size}\n"
    )
    print("| step | " + " | ".join(f"{name}: s | KID x 1000" for name in loops) + " |")
    print("|---" * (1 + 2 * len(loops)) + "|", flush=True)
    curves = race(
        loops, (records, held_out), settings, minutes=options.minutes, every=options.every
    )
    plain, *others = curves
    for name in others:
        print(f"\n{name}: {verdict(curves[plain], curves[name])}")


class Plain:
    """The plain loop on given images."""

    def __init__(self, settings: TrainSettings) -> None:
        self.loop = PlainLoop(settings)

    def step(self, real: Tensor) -> None:
        """Take one step of D and one of G."""
        self.loop.real = real.contiguous()
        self.loop.step()

    def samples(self, z: Tensor) -> Tensor:
        """Generate images with the current weights."""
        self.loop.generator.eval()
        images: Tensor = self.loop.generator(z[:, :, None, None])
        self.loop.generator.train()
        return images


class Ours:
    """The training step of `pixmend.training.loop`."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings, self.state = settings, initial_state(settings, _CPU)

    def step(self, real: Tensor) -> None:
        """Take one step of D and one of G."""
        state, settings = self.state, self.settings
        generator = generator_for(settings.seed, "z", str(state.step), "0")
        z = sample_latents(settings.networks(), settings.batch_size, generator)
        fake = state.generator(z)
        real = real.contiguous(memory_format=torch.channels_last)
        seen = self.transform("real")(real)
        loss = discriminator_step(state, seen, fake, settings, self.transform("fake"))
        loss = loss + generator_step(state, fake, seen, settings, self.transform("generator"))
        state.step += 1
        state.images += settings.batch_size
        float(loss.mean())

    def transform(self, of: str) -> Transform:
        """Return the augmentation of D's input in this step."""
        settings, count = self.settings, self.settings.batch_size
        generator = generator_for(settings.seed, "augment", self.state.step, of)
        return make_diffaugment(
            settings.transforms, settings.diffaugment_probability, count, generator=generator
        )

    def samples(self, z: Tensor) -> Tensor:
        """Generate images with the EMA weights and recomputed batch norm statistics."""
        frozen = recompute_batchnorm(self.state.ema, self.settings.networks(), seed=0)
        images: Tensor = frozen(z)
        return images


def race(
    loops: dict[str, Plain | Ours],
    data: tuple[Records, Records],
    settings: TrainSettings,
    *,
    minutes: float,
    every: int,
) -> dict[str, list[tuple[float, float]]]:
    """Return (seconds, KID) curves of all loops until the time is up; print each row."""
    records, held_out = data
    features = choose_features(_CPU)
    order = Shuffle(len(records), 0)
    some = np.random.default_rng(0).permutation(len(held_out))[:_SAMPLES]
    reference = features(to_device(held_out.images(some), _CPU))
    z = sample_latents(settings.networks(), _SAMPLES, generator_for(0, "scored"))
    seconds = dict.fromkeys(loops, 0.0)
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    step = 0
    while sum(seconds.values()) < 60 * minutes:
        places = order.positions(step * settings.batch_size, settings.batch_size)
        real = to_device(records.images(places), _CPU)
        for name, loop in loops.items():
            started = time.perf_counter()
            loop.step(real)
            seconds[name] += time.perf_counter() - started
        step += 1
        if step % every == 0:
            for name, loop in loops.items():
                with torch.no_grad():
                    images = torch.cat([loop.samples(part) for part in torch.split(z, 128)])
                curves[name].append((seconds[name], kernel_distance(features(images), reference)))
            cells = (f"{curve[-1][0]:.0f} | {1000 * curve[-1][1]:.2f}" for curve in curves.values())
            print(f"| {step:,} | {' | '.join(cells)} |", flush=True)
    return curves


def verdict(plain: list[tuple[float, float]], ours: list[tuple[float, float]]) -> str:
    """Describe when a loop reached the scores of the plain loop."""
    if not plain:
        return "too little time for one score"
    best = min(kid for _, kid in plain)
    when = next(seconds for seconds, kid in plain if kid == best)
    scores = [("best", when, best), ("last", *plain[-1])]
    return "; ".join(_reached(ours, *score) for score in scores)


def _reached(ours: list[tuple[float, float]], which: str, when: float, kid: float) -> str:
    score = f"the plain loop's {which} score, {1000 * kid:.2f} after {when:.0f} s,"
    reached = next((seconds for seconds, value in ours if value <= kid), None)
    if reached is None:
        return f"{score} not reached"
    return f"{score} reached after {reached:.0f} s, {reached / when:.2f} of the time"


if __name__ == "__main__":
    main()
