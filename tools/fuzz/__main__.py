"""`python -m tools.fuzz hunt` runs atheris on the targets, `replay` runs the kept inputs."""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.fuzz.reach import lines_of, lines_run
from tools.fuzz.targets import CORPORA, TARGETS, kept_inputs

_HERE = Path(__file__).parent
_WORK = _HERE / "work"  # results of all hunts
_FINDINGS = _HERE / "findings"
_LOG = _WORK / "hunts.jsonl"


@dataclass(frozen=True)
class Hunt:
    """The result of one hunt.

    Attributes
    ----------
    executions, seconds, cpu_seconds
        Inputs executed, and the time they took.
    edges, features
        libFuzzer's coverage: edges, and edges with hit counts.
    corpus
        Inputs that each add coverage.
    finding
        File of an input that broke a promise, if any.
    """

    target: str
    executions: int
    seconds: float
    cpu_seconds: float
    edges: int
    features: int
    corpus: int
    finding: str = ""


def main() -> None:
    """Run one of the verbs."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("verb", choices=["hunt", "replay", "keep", "total"])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="Total time, seconds.")
    parser.add_argument("--turn", type=float, default=60, help="Maximum time per hunt, seconds.")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = asked.targets or list(TARGETS)
    if asked.verb == "hunt":
        sys.exit(_hunt_in_turn(names, asked.seconds, asked.turn))
    {"replay": _replay, "keep": _keep, "total": _total}[asked.verb](names)


def _hunt_in_turn(names: list[str], seconds: float, turn: float) -> int:
    """Fuzz the targets in turn until the time is up; return 1 if a promise was broken."""
    turn = max(1.0, min(turn, seconds / len(names)))
    end, findings = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for name in names:
            if time.monotonic() >= end:
                break
            hunt = _hunt(name, turn)
            with _LOG.open("a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(hunt)) + "\n")
            print(
                f"{name}: {hunt.executions:,} executions in {hunt.cpu_seconds:.0f} s, {hunt.edges} edges, "
                f"{hunt.corpus} inputs{', FOUND ' + hunt.finding if hunt.finding else ''}",
                flush=True,
            )
            findings += bool(hunt.finding)
    _total(names)
    return int(findings > 0)


def _hunt(name: str, seconds: float) -> Hunt:
    target, corpus = TARGETS[name], _WORK / name
    corpus.mkdir(parents=True, exist_ok=True)
    _FINDINGS.mkdir(exist_ok=True)
    for number, content in enumerate(kept_inputs(name)):
        (corpus / f"kept-{number:03}").write_bytes(content)
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as words:
        words.writelines(f'"{_quoted(word)}"\n' for word in target.words)
        words.flush()
        command = [
            *(sys.executable, "-m", "tools.fuzz.hunt", name, str(corpus)),
            *(f"-max_total_time={seconds:.0f}", f"-max_len={target.longest}"),
            *("-timeout=60", "-rss_limit_mb=3072", "-print_final_stats=1", "-use_value_profile=1"),
            f"-artifact_prefix={_FINDINGS / name}-",
            *([f"-dict={words.name}"] if target.words else []),
        ]
        before, started = _cpu_seconds(), time.monotonic()
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    finding = re.findall(r"Test unit written to (\S+)", ran.stderr)
    if ran.returncode and not finding:
        raise RuntimeError(f"{name} failed to run:\n{ran.stderr[-3000:]}")
    if finding:
        Path(f"{finding[0]}.txt").write_text((ran.stdout + ran.stderr)[-20_000:], encoding="utf-8")
    statistic = re.findall(r"#\d+\s+.*cov: (\d+) ft: (\d+) corp: (\d+)", ran.stderr) or [(0, 0, 0)]
    edges, features, kept = map(int, statistic[-1])
    return Hunt(
        name,
        int((re.findall(r"number_of_executed_units: (\d+)", ran.stderr) or ["0"])[0]),
        round(time.monotonic() - started, 1),
        round(_cpu_seconds() - before, 1),
        edges,
        features,
        kept,
        finding[0] if finding else "",
    )


def _replay(names: list[str]) -> None:
    """Run every kept input once and print the line coverage of each target."""
    for name in names:
        target, inputs = TARGETS[name], kept_inputs(name)
        can = lines_of(target.modules)
        ran = lines_run(target.check, inputs, can)
        share = len(ran) / len(can)
        print(
            f"{name}: {len(inputs)} inputs, {share:.0%} of {len(can)} lines of {', '.join(target.modules)}"
        )


def _keep(names: list[str]) -> None:
    """Keep the inputs of the hunts that add line coverage, smallest first."""
    for name in names:
        target, kept = TARGETS[name], kept_inputs(name)
        can = lines_of(target.modules)
        most = lines_run(target.check, kept, can)
        (CORPORA / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((_WORK / name).glob("*"), key=lambda each: each.stat().st_size):
            content = path.read_bytes()
            now = most | lines_run(target.check, [content], can)
            if now > most:
                most = now
                digest = hashlib.sha256(content).hexdigest()[:8]
                (CORPORA / name / f"reach-{digest}").write_bytes(content)
        print(f"{name}: {len(kept_inputs(name))} inputs reach {len(most)} of {len(can)} lines")


def _total(names: list[str]) -> None:
    """Print a table of all hunts so far."""
    hunts = list(_hunts())
    print(
        "\n| target | executions | CPU minutes | edges | inputs | findings |\n|---|---|---|---|---|---|"
    )
    for name in names:
        of = [hunt for hunt in hunts if hunt.target == name]
        if of:
            print(
                f"| {name} | {sum(h.executions for h in of):,} | {sum(h.cpu_seconds for h in of) / 60:.1f} | "
                f"{max(h.edges for h in of)} | {of[-1].corpus} | {sum(bool(h.finding) for h in of)} |"
            )


def _hunts() -> Iterator[Hunt]:
    if _LOG.exists():
        for line in _LOG.read_text(encoding="utf-8").splitlines():
            yield Hunt(**json.loads(line))


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _cpu_seconds() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
