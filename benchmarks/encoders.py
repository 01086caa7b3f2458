"""Compare ways to train an encoder for the same time on the same images.

    python benchmarks/encoders.py OUT RECORDS [--minutes 5] [--filters 32] [--memory 4096]
                                  [--threads 1] [--variants a b d]

Without encoder, a short search fills the holes. (b): an encoder that conditions G; (d): (b) with retrieval images;
(e): (d) with a harmonic fill; (f): (e) with a penalty on D's gradient; (g): (f) at twice the learning rate. All run at the same
time, each in a process with as many threads, so that other programs slow all alike. Scores are those of the run's monitor on held-out
groups, at the best checkpoint: hole PSNR of one pass, KID of prior samples. Prints a markdown table; the sample grids are in OUT.
"""

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from pixmend.training import RunDirectory, Scores
from pixmend.training.monitor import MASKS, read_scores

_VARIANTS = {
    "no encoder": {"encoder": "off"},
    "(b) conditional": {"encoder": "conditional"},
    "(d) conditional, retrieval": {"encoder": "conditional", "retrieval_images": "MEMORY"},
    "(e) conditional, retrieval, harmonic": {
        "encoder": "conditional",
        "retrieval_images": "MEMORY",
        "hole_init": "harmonic",
    },
    "(f) as (e), r1": {
        "encoder": "conditional",
        "retrieval_images": "MEMORY",
        "hole_init": "harmonic",
        "r1_gamma": "1",
    },
    "(g) as (f), twice the rate": {
        "encoder": "conditional",
        "retrieval_images": "MEMORY",
        "hole_init": "harmonic",
        "r1_gamma": "1",
        "learning_rate": "4e-4",
    },
}

_LETTERS = {"off" if name[0] == "n" else name[1]: name for name in _VARIANTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
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
    settings = {
        "latent_prior": "normal",
        "lr_schedule": "cosine",
        "steps": "10000000",
        "filters": str(options.filters),
        "encoder_filters": str(options.filters),
        "batch_size": str(options.batch),
        "ema_decay": "0.99",
        "retrieval_images": "0",
        "hole_init": "grey",
        "random_shift": "0",
        "horizontal_flip": "false",
        **{key: value.replace("MEMORY", str(options.memory)) for key, value in values.items()},
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
