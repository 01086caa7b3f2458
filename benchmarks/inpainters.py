"""Compare variants of the inpainter, trained for the same time on the same images.

    python benchmarks/inpainters.py OUT RECORDS [--minutes 5] [--filters 32] [--memory 4096]
                                    [--threads 1] [--variants a b c]

Without an inpainter, no hole is filled: the row shows G alone. All variants run at the same time,
each in a process with its own threads, so that other programs slow them equally. Scores are those of
each run's monitor on held-out groups at its best checkpoint: hole PSNR of the mean of eight draws,
KID of prior samples. Prints a markdown table; sample grids are in OUT.
"""

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from pixmend.training import RunDirectory, Scores
from pixmend.training.monitor import MASKS, read_scores

_RETRIEVAL = {"inpainter_filters": "FILTERS", "retrieval_images": "MEMORY"}
_VARIANTS = {
    "no inpainter": {},
    "(a) inpainter": {"inpainter_filters": "FILTERS"},
    "(b) with retrieval": _RETRIEVAL,
    "(c) as (b), one draw": {**_RETRIEVAL, "inpainter_draws": "1"},
    "(d) as (b), two draws": {**_RETRIEVAL, "inpainter_draws": "2"},
}

_LETTERS = {"off" if name[0] == "n" else name[1]: name for name in _VARIANTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--memory", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variants", nargs="+", default=list(_LETTERS), choices=_LETTERS)
    options = parser.parse_args()
    runs = {
        _LETTERS[letter]: start(options.out / letter, options, _VARIANTS[_LETTERS[letter]])
        for letter in options.variants
    }
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {options.minutes:g} minutes each, concurrently on {os.cpu_count()} cores, "
        f"{options.threads} threads each, {options.filters} filters, batch {options.batch}\n"
    )
    print(
        "| variant | best step of all |",
        " | ".join(f"{spec}, dB" for spec in MASKS),
        "| KID x 1000 |",
    )
    print("|---" * (len(MASKS) + 3) + "|")
    for letter, (name, run) in zip(options.variants, runs.items(), strict=True):
        _, problems = run.communicate()
        if run.returncode:
            sys.exit(f"{name}: {problems[-2000:]}")
        print(row(name, read_scores(RunDirectory(options.out / letter).scores)), flush=True)


def start(
    run: Path, options: argparse.Namespace, values: dict[str, str]
) -> "subprocess.Popen[str]":
    """Start the training run of a variant."""
    sizes = {"FILTERS": str(options.filters), "MEMORY": str(options.memory)}
    settings = {
        "lr_schedule": "cosine",
        "steps": "10000000",
        "filters": "16",
        "inpainter_filters": "0",
        "inpainter_batch": str(options.batch),
        "inpainter_steps": "3",
        "batch_size": str(options.batch),
        "ema_decay": "0.99",
        "retrieval_images": "0",
        "horizontal_flip": "false",
        **{key: sizes.get(value, value) for key, value in values.items()},
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "pixmend", "train", options.records, run]
    command += ["--minutes", str(options.minutes), *sets]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    return subprocess.Popen(
        [*map(str, command)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def row(name: str, scores: list[Scores]) -> str:
    """Return a variant's best scores as a table row."""
    best = next(each for each in reversed(scores) if each.best)
    values = " | ".join(f"{best.psnr[spec]:.2f}" if best.psnr else "" for spec in MASKS)
    return f"| {name} | {best.step:,} of {scores[-1].step:,} | {values} | {1000 * best.kid:.1f} |"


if __name__ == "__main__":
    main()
