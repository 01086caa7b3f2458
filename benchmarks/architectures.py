"""The networks of `arch` against each other, each trained for the same time on the same images from the same seed.

    python benchmarks/architectures.py OUT RECORDS [--minutes 3] [--threads 1] [--set filters=32 ...]

All runs train at the same time, a process each, so that whatever else the machine does slows them alike. The time is that of training
alone, after the first step: reading the images and scoring come on top. Prints a markdown table of the monitor's word on the last
checkpoints, KID x 1000 of prior samples and hole PSNR of held-out images under each mask, and then where the grids of prior samples
are. With `--set encoder=conditional` the encoder fills the holes in one pass, else a short search.
"""

import argparse
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch

from pixmend.models import DCGANSettings, load_model
from pixmend.records import Records
from pixmend.training import RunDirectory, parse_overrides, resolve, train
from pixmend.training.monitor import MASKS, read_scores

ARCHITECTURES: tuple[str, ...] = get_args(DCGANSettings.model_fields["arch"].annotation)
_NEVER = 10**7  # steps and checkpoints by count: time is up before


@dataclass(frozen=True)
class _Trained:
    steps: int
    weights: int  # of G and D
    grid: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--set", action="append", default=[], dest="pairs", metavar="KEY=VALUE")
    options = parser.parse_args()
    records = Records(options.records)
    held = {"size": records.size, "channels": records.channels}
    held |= {"steps": _NEVER, "checkpoint_every": _NEVER}
    held |= parse_overrides(options.pairs)
    print(
        f"{options.minutes:g} minutes each, at the same time, {' '.join(options.pairs)}, {datetime.now(UTC):%Y-%m-%d}, "
        f"{platform.processor() or platform.machine()}, {options.threads} threads each, torch {torch.__version__}; "
        f"{options.records.name}: {len(records):,} images, {records.size} px, {records.channels}\n"
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(ARCHITECTURES), mp_context=context) as pool:
        trained = [
            pool.submit(
                _train,
                arch,
                options.records,
                options.out / arch,
                held,
                options.minutes,
                options.threads,
            )
            for arch in ARCHITECTURES
        ]
        _print([each.result() for each in trained], options.out)


def _train(
    arch: str, records: Path, run: Path, held: dict[str, Any], minutes: float, threads: int
) -> _Trained:
    torch.set_num_threads(threads)
    started: list[float] = []

    def time_is_up() -> bool:
        return bool(started) and time.monotonic() > started[0] + 60 * minutes

    settings = resolve(held, {"arch": arch})
    for now in train(Records(records), run, settings, should_stop=time_is_up):
        steps = now.step
        if not started:
            started.append(time.monotonic())
    model = load_model(RunDirectory(run).model)
    weights = [*model.generator.parameters(), *model.discriminator.parameters()]
    grid = max(RunDirectory(run).samples.glob("step-*.png"))
    return _Trained(steps, sum(each.numel() for each in weights), grid)


def _print(trained: list[_Trained], out: Path) -> None:
    print(
        f"| arch | steps | weights | KID x 1000 | {' | '.join(f'{mask} PSNR' for mask in MASKS)} |"
    )
    print(f"|{'---|' * (4 + len(MASKS))}")
    for arch, run in zip(ARCHITECTURES, trained, strict=True):
        scores = read_scores(RunDirectory(out / arch).scores)[-1]
        print(
            f"| {arch} | {run.steps:,} | {run.weights:,} | {_shown(scores.kid, 1000)} | "
            f"{' | '.join(_shown(scores.psnr.get(mask)) for mask in MASKS)} |"
        )
    print("\nprior samples: " + ", ".join(str(run.grid) for run in trained))


def _shown(score: float | None, times: float = 1) -> str:
    return "" if score is None else f"{score * times:.2f}"


if __name__ == "__main__":
    main()
