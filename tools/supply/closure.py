"""The packages that an installation brings along, by their own metadata."""

from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["closure", "licence_of", "megabytes"]


def closure(roots: Iterable[str], *, without: Iterable[str] = ()) -> dict[str, Distribution]:
    """Return what requirements such as ``pixmend[serve]`` bring along, by name in order, themselves included.

    Parameters
    ----------
    without
        Names of packages that are left out, with what only they need.
    """
    left_out = set(map(canonicalize_name, without))
    found: dict[str, Distribution] = {}
    waiting = [Requirement(root) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        key = (name, frozenset(wanted.extras))
        if name in left_out or key in seen:
            continue
        seen.add(key)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform's, or of an extra that is not installed
        waiting.extend(_needs(found[name], wanted.extras))
    return dict(sorted(found.items()))


def _needs(package: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    for text in package.requires or ():
        need = Requirement(text)
        marker = need.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need


def licence_of(package: Distribution) -> str:
    """Return a package's licence as its metadata have it, as short as they have it."""
    facts = package.metadata
    expression = facts.get("License-Expression")
    if expression:
        return str(expression)
    kinds = [
        kind.split(" :: ")[-1]
        for kind in facts.get_all("Classifier") or ()
        if kind.startswith("License ::") and kind != "License :: OSI Approved"
    ]
    if kinds:
        return ", ".join(kinds)
    first = str(facts.get("License") or "").strip().partition("\n")[0]
    return first or "not stated"


def megabytes(package: Distribution) -> float:
    """Return what a package's files take on disk, in 10^6 bytes; compiled bytecode is not counted."""
    files = (Path(str(package.locate_file(file))) for file in package.files or ())
    return sum(f.stat().st_size for f in files if f.suffix != ".pyc" and f.is_file()) / 1e6
