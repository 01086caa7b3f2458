"""How long training takes to the same quality: ours against the plain loop, on the same images, in the same process.

    python benchmarks/quality.py RECORDS [--minutes 5] [--filters 48] [--threads 2]

Both loops take turns, one step each, and each has a clock of its own; the plain loop (`training.PlainLoop`) is the one that PyTorch's
public DCGAN tutorial describes. Every 100 steps the KID (Binkowski 2018, on fixed random features) of 512 samples to 512 images is
taken: of the plain loop by its generator as it stands, with running batch statistics; of ours by the averaged generator that a run
exports. Prints both curves, and the share of the plain loop's time after which ours first had its best score.
"""

import argparse
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from training import PlainLoop, cpu_name

from pixmend.features import choose_features, kernel_distance
from pixmend.models import sample_latents
from pixmend.randomness import generator_for
from pixmend.records import Records
from pixmend.training import TrainSettings, resolve
from pixmend.training.average import freeze_statistics
from pixmend.training.data import Order, pixels_to_device
from pixmend.training.inversion import draw
from pixmend.training.state import discriminator_step, generator_step, initial_state

_CPU = torch.device("cpu")
_SAMPLES = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("--minutes", type=float, default=5, help="of both loops together")
    parser.add_argument("--every", type=int, default=100, help="steps from one score to the next")
    parser.add_argument("--filters", type=int, default=48)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    records = Records(options.records)
    settings = resolve(
        {
            "size": records.size,
            "channels": records.channels,
            "filters": options.filters,
            "batch_size": options.batch,
        }
    )
    loops = {"plain eager loop": Plain(settings), "pixmend": Ours(settings)}
    curves = race(loops, records, settings, minutes=options.minutes, every=options.every)
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, {options.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"{len(records):,} images, {records.size} px, {settings.filters} filters, batch {settings.batch_size}\n"
    )
    print("| step | " + " | ".join(f"{name}: s | KID x 1000" for name in loops) + " |")
    print("|---" * (1 + 2 * len(loops)) + "|")
    for number, rows in enumerate(zip(*curves.values(), strict=True), start=1):
        cells = " | ".join(f"{seconds:.0f} | {1000 * kid:.2f}" for seconds, kid in rows)
        print(f"| {number * options.every} | {cells} |")
    print(f"\n{verdict(*curves.values())}")


class Plain:
    """The plain loop, fed with images."""

    def __init__(self, settings: TrainSettings) -> None:
        self.loop = PlainLoop(settings)

    def step(self, real: Tensor) -> None:
        """Take one step of D and one of G."""
        self.loop.real = real.contiguous()
        self.loop.step()

    def samples(self, z: Tensor) -> Tensor:
        """Return what its generator draws as it stands."""
        self.loop.generator.eval()
        drawn: Tensor = self.loop.generator(z[:, :, None, None])
        self.loop.generator.train()
        return drawn


class Ours:
    """One iteration as `pixmend.training.loop` takes it."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings, self.state = settings, initial_state(settings, _CPU)

    def step(self, real: Tensor) -> None:
        """Take one step of D and one of G."""
        state, settings = self.state, self.settings
        generator = generator_for(settings.seed, "z", str(state.step), "0")
        z = sample_latents(settings.networks(), settings.batch_size, generator)
        drawn = draw(state.generator, None, None, z)
        real = real.contiguous(memory_format=torch.channels_last)
        loss = discriminator_step(state, real, drawn.images, settings).mean()
        loss = loss + generator_step(state, drawn, real, settings).mean()
        state.step += 1
        state.images += settings.batch_size
        float(loss)

    def samples(self, z: Tensor) -> Tensor:
        """Return what the averaged generator draws, with statistics of its own."""
        frozen = freeze_statistics(self.state.average, self.settings.networks(), seed=0)
        drawn: Tensor = frozen(z)
        return drawn


def race(
    loops: dict[str, Plain | Ours],
    records: Records,
    settings: TrainSettings,
    *,
    minutes: float,
    every: int,
) -> dict[str, list[tuple[float, float]]]:
    """Return for each loop its seconds and KID after every so many steps, until the time of all is up."""
    features = choose_features(_CPU)
    order = Order(len(records), 0)
    some = np.random.default_rng(0).permutation(len(records))[:_SAMPLES]
    wanted = features(pixels_to_device(records.images, some, _CPU))
    z = sample_latents(settings.networks(), _SAMPLES, generator_for(0, "scored"))
    seconds = dict.fromkeys(loops, 0.0)
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    step = 0
    while sum(seconds.values()) < 60 * minutes:
        places = order.positions(step * settings.batch_size, settings.batch_size)
        real = pixels_to_device(records.images, places, _CPU)
        for name, loop in loops.items():
            started = time.perf_counter()
            loop.step(real)
            seconds[name] += time.perf_counter() - started
        step += 1
        if step % every == 0:
            for name, loop in loops.items():
                with torch.no_grad():
                    drawn = torch.cat([loop.samples(part) for part in torch.split(z, 128)])
                curves[name].append((seconds[name], kernel_distance(features(drawn), wanted)))
    return curves


def verdict(plain: list[tuple[float, float]], ours: list[tuple[float, float]]) -> str:
    """Return in words when ours was as good as the plain loop came to be."""
    if not plain:
        return "too little time for one score"
    best = min(kid for _, kid in plain)
    when = next(seconds for seconds, kid in plain if kid == best)
    reached = next((seconds for seconds, kid in ours if kid <= best), None)
    if reached is None:
        return (
            f"ours did not reach the plain loop's best score, {1000 * best:.2f} after {when:.0f} s"
        )
    return (
        f"the plain loop's best score, {1000 * best:.2f} after {when:.0f} s, ours had after {reached:.0f} s: "
        f"{reached / when:.2f} of the time"
    )


if __name__ == "__main__":
    main()
