"""An evaluation from beginning to end: images chosen, protocol carried out, report written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixmend.evaluation.contestants import available, find_contestants
from pixmend.evaluation.diagnosis import Finding, diagnose, probe_samples, verdict
from pixmend.evaluation.heldout import HeldOut, Source, TrainingImages, choose_held_out
from pixmend.evaluation.ledger import Ledger, Row
from pixmend.evaluation.protocol import Protocol, Step, carry_out, rows_of
from pixmend.evaluation.report import Account, write_report
from pixmend.evaluation.summary import Summary, summarise
from pixmend.models import DCGAN

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found; all of it is in its folder too.

    Attributes
    ----------
    verdict
        In words.
    summary, rows
        The figures.
    findings
        Why they are as they are, and what to try.
    held_out
        The images.
    absent
        Rivals that took no part, and why, in words.
    report, results
        ``report.html`` (``report.json`` beside it) and ``results.csv``.
    """

    verdict: str
    summary: Summary
    rows: list[Row]
    findings: list[Finding]
    held_out: HeldOut
    absent: list[str]
    report: Path
    results: Path


def evaluate(
    model: DCGAN,
    source: Source,
    out: Path,
    *,
    train: TrainingImages | None = None,
    methods: Sequence[str] | None = None,
    protocol: Protocol | None = None,
    count: int = 512,
    candidates: int = 1,
    seconds: float | None = None,
    model_name: str = "model",
    model_digest: str = "",
    on_images: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[Step], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Let methods complete images that the model has not seen, and judge them; the same call goes on with what is in ``out``.

    Parameters
    ----------
    train
        The training images, for the rivals ``mean`` and ``nearest``, and to leave out what training has seen.
    methods
        See `find_contestants`; None for the model's default methods and all rivals that there are.
    count
        Of images, drawn; all where there are fewer.
    candidates
        Answers an image; the best of them is a figure of its own.
    seconds
        Of search an image, in place of the methods' steps: then two evaluations differ.

    Raises
    ------
    StoppedError
        ``should_stop`` said yes.
    SettingsError, MaskError, InputError, RunError, OutputError
        What was handed over cannot be used; the message says why.
    """
    protocol = protocol or Protocol()
    images = None if train is None else train.images
    names, absent = (list(methods), []) if methods is not None else available(model, images)
    contestants = find_contestants(
        names, model, images, seed=protocol.seed, candidates=candidates, seconds=seconds
    )
    held = choose_held_out(
        source, model, train, count=count, seed=protocol.seed, on_progress=on_images
    )
    ledger = Ledger(
        out,
        {
            "format": 1,
            "model": model_digest,
            "train-data": "" if train is None else train.digest,
            "seed": protocol.seed,
            "batch": protocol.batch,
            "candidates": candidates,
            "seconds-per-image": seconds,
        },
    )
    for step in carry_out(held, contestants, protocol, ledger, should_stop=should_stop):
        on_step(step)
    probe = probe_samples(model, contestants, protocol, out / "probe.json", should_stop=should_stop)
    rows = rows_of(held, contestants, protocol, ledger)
    ledger.write(rows)  # in one order, whatever was done when
    summary = summarise(rows, contestants, protocol.masks)
    trained = None if train is None else len(train.images)
    findings = diagnose(summary, rows, held, training=trained, probe=probe)
    account = Account(
        verdict(summary),
        summary,
        findings,
        held,
        protocol,
        {
            "model": model_name,
            "images": f"{len(held.images):,} of {held.available:,}",
            "training images": "not given" if trained is None else f"{trained:,}",
            "size": f"{model.settings.size} px {model.settings.channels}",
            "candidates": f"{candidates}",
            "seconds an image": "each method's steps" if seconds is None else f"{seconds:g}",
            "seed": f"{protocol.seed}",
        },
        absent,
        probe,
    )
    write_report(out, account, rows, ledger)
    return Evaluation(
        account.verdict,
        summary,
        rows,
        findings,
        held,
        absent,
        out / "report.html",
        out / "results.csv",
    )
