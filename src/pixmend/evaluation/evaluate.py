"""An evaluation from beginning to end: images chosen, protocol carried out, report written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pixmend.errors import SettingsError
from pixmend.evaluation.diagnosis import Diagnostic, diagnose, verdict
from pixmend.evaluation.heldout import HeldOut, Source, TrainingImages, choose_held_out
from pixmend.evaluation.ledger import ResultStore, Row
from pixmend.evaluation.methods_under_test import (
    EvaluatedMethod,
    available,
    find_contestants,
    outsider,
)
from pixmend.evaluation.outside import Outside
from pixmend.evaluation.probes import Rebuilt, SelfInversion, probe_samples, rebuild
from pixmend.evaluation.protocol import Engine, Protocol, Step, carry_out, rows_of
from pixmend.evaluation.reader import train_reader, unreadable
from pixmend.evaluation.realism import FEWEST, Samples, judge_realism, judge_samples
from pixmend.evaluation.report import Account, write_report
from pixmend.evaluation.rivals import Images
from pixmend.evaluation.summary import Summary, summarise
from pixmend.models import DCGAN


@dataclass(frozen=True, eq=False)
class ModelUnderTest:
    """A model under evaluation: what people call it, and a digest of its file."""

    model: DCGAN
    name: str = "model"
    digest: str = ""


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
        Rivals and figures that there are none of, and why, in words.
    report, results
        ``report.html`` (``report.json`` beside it) and ``results.csv``.
    """

    verdict: str
    summary: Summary
    rows: list[Row]
    findings: list[Diagnostic]
    held_out: HeldOut
    absent: list[str]
    report: Path
    results: Path


@dataclass(frozen=True, eq=False)
class _Facts:
    """What is found beside the rows."""

    probe: SelfInversion | None
    rebuilt: Rebuilt | None
    samples: tuple[Samples, Images, Images] | None
    originals_read: float | None
    absent: list[str] = field(default_factory=list)


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
    other: ModelUnderTest | None = None,
    completions: Mapping[str, Path] | None = None,
    engine: Engine | None = None,
    on_images: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[Step], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Let methods complete images that the model has not seen, and judge them; the same call goes on with what is in ``out``.

    Parameters
    ----------
    train
        The training images, for the rivals ``mean`` and ``nearest``, to read answers by, and to leave out what training has seen.
    methods
        See `find_contestants`; None for the model's default methods and all rivals that there are.
    count
        Of images, drawn; all where there are fewer.
    candidates
        Answers an image; the best of them is a figure of its own.
    seconds
        Of search an image, in place of the methods' steps: then two evaluations differ.
    other
        A second model, to be compared with the first on the same images: then they are A and B.
    completions
        Folders of answers by other tools, by name: see `pixmend.evaluation.outside`.
    engine
        Lets others complete the images, by `methods_of` the same; see `carry_out`.

    Raises
    ------
    StoppedError
        ``should_stop`` said yes.
    SettingsError, MaskError, InputError, RunError, OutputError
        What was handed over cannot be used; the message says why.
    """
    protocol = protocol or Protocol()
    subject = ModelUnderTest(model, model_name, model_digest)
    subjects = [subject] if other is None else [subject, _alike(subject, other)]
    methods_under_test, absent = methods_of(
        subjects, train, methods, seed=protocol.seed, candidates=candidates, seconds=seconds
    )
    outsiders = [Outside(name, folder) for name, folder in (completions or {}).items()]
    methods_under_test += [outsider(each.name, each) for each in outsiders]
    held = choose_held_out(
        source, model, train, count=count, seed=protocol.seed, on_progress=on_images
    )
    plan = {
        "format": 2,
        "model": model_digest,
        "other": "" if other is None else other.digest,
        "train-data": "" if train is None else train.digest,
        "seed": protocol.seed,
        "batch": protocol.batch,
        "candidates": candidates,
        "seconds-per-image": seconds,
    }
    ledger = ResultStore(out, plan)
    ledger.follow({each.name: each.digest(protocol.masks, len(held.images)) for each in outsiders})
    for step in carry_out(
        held, methods_under_test, protocol, ledger, engine=engine, should_stop=should_stop
    ):
        on_step(step)
    rows = rows_of(held, methods_under_test, protocol, ledger)
    rows, facts = _beside(
        model, rows, held, train, methods_under_test, protocol, ledger, should_stop
    )
    ledger.write(rows)  # in one order, whatever was done when
    features, realism = judge_realism(held, rows, protocol.batch, ledger, should_stop=should_stop)
    if features == "random":
        facts.absent.append(
            "features of photographs are missing: KID is in those of a fixed random net; pip install 'pixmend[metrics]'"
        )
    if not realism:
        facts.absent.append(f"KID needs {FEWEST} images, and there are {len(held.images)}")
    summary = summarise(
        rows, methods_under_test, protocol.masks, features=features, realism=realism
    )
    trained = None if train is None else len(train.images)
    findings = diagnose(
        summary,
        rows,
        held,
        training=trained,
        probe=facts.probe,
        rebuilt=facts.rebuilt,
        samples=None if facts.samples is None else facts.samples[0],
    )
    account = Account(
        verdict(summary),
        summary,
        findings,
        held,
        protocol,
        {
            "model": " and ".join(each.name for each in subjects),
            "images": f"{len(held.images):,} of {held.available:,}",
            "training images": "not given" if trained is None else f"{trained:,}",
            "size": f"{model.settings.size} px {model.settings.channels}",
            "candidates": f"{candidates}",
            "seconds an image": "each method's steps" if seconds is None else f"{seconds:g}",
            "seed": f"{protocol.seed}",
            "features": features,
        },
        [*absent, *facts.absent],
        facts.probe,
        facts.rebuilt,
        facts.samples,
        facts.originals_read,
    )
    write_report(out, account, rows, ledger)
    return Evaluation(
        account.verdict,
        summary,
        rows,
        findings,
        held,
        [*absent, *facts.absent],
        out / "report.html",
        out / "results.csv",
    )


def _alike(first: ModelUnderTest, second: ModelUnderTest) -> ModelUnderTest:
    ours, theirs = first.model.settings, second.model.settings
    if (ours.size, ours.channels) != (theirs.size, theirs.channels):
        raise SettingsError(
            f"{first.name} is of {ours.size} px {ours.channels} and {second.name} of {theirs.size} px {theirs.channels}: "
            "compare models of one shape"
        )
    return second


def methods_of(
    subjects: Sequence[ModelUnderTest],
    train: TrainingImages | None,
    methods: Sequence[str] | None,
    *,
    seed: int,
    candidates: int,
    seconds: float | None,
) -> tuple[list[EvaluatedMethod], list[str]]:
    """Return who takes part, rivals once, and in words who does not and why."""
    images = None if train is None else train.images
    found: dict[str, EvaluatedMethod] = {}
    absent: list[str] = []
    for letter, subject in zip("AB", subjects, strict=False):
        names, reasons = (
            (list(methods), []) if methods is not None else available(subject.model, images)
        )
        absent = [*absent, *(reason for reason in reasons if reason not in absent)]
        for each in find_contestants(
            names,
            subject.model,
            images,
            seed=seed,
            candidates=candidates,
            seconds=seconds,
            of=letter if len(subjects) > 1 else "",
        ):
            found.setdefault(each.label, each)
    ordered = [each for each in found.values() if each.ours]
    return [*ordered, *(each for each in found.values() if not each.ours)], absent


def _beside(
    model: DCGAN,
    rows: list[Row],
    held: HeldOut,
    train: TrainingImages | None,
    methods_under_test: Sequence[EvaluatedMethod],
    protocol: Protocol,
    ledger: ResultStore,
    should_stop: Callable[[], bool],
) -> tuple[list[Row], _Facts]:
    """Return the rows with what the classifier reads, and the facts that are of no row."""
    out, ours = ledger.folder, any(each.ours for each in methods_under_test)
    probe = probe_samples(
        model, methods_under_test, protocol, out / "probe.json", should_stop=should_stop
    )
    samples = None
    if ours and train is not None:
        samples = judge_samples(model, held, train, out / "samples.json")
    rebuilt = rebuild(model, held) if ours else None
    reason = unreadable(train, held)
    if reason is not None or train is None:
        return rows, _Facts(probe, rebuilt, samples, None, [reason] if reason else [])
    reader = train_reader(train, out / "reader.safetensors")
    known = set(reader.classes)
    truth = {n: str(label) for n, label in enumerate(held.labels) if str(label) in known}
    pictures = {row.key: ledger.picture(row, protocol.batch) for row in rows if row.number in truth}
    there = [(key, picture) for key, picture in pictures.items() if picture is not None]
    said = dict(
        zip(
            [key for key, _ in there],
            reader.read(np.stack([picture for _, picture in there])),
            strict=True,
        )
    )
    read = [
        replace(row, read=float(said[row.key] == truth[row.number])) if row.key in said else row
        for row in rows
    ]
    originals = reader.read(held.images[list(truth)])
    rate = float(np.mean([a == b for a, b in zip(originals, truth.values(), strict=True)]))
    return read, _Facts(probe, rebuilt, samples, rate)
