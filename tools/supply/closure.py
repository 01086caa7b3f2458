"""Dependencies of an installation, by package metadata."""

from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["closure", "licence_of", "megabytes", "needs"]


def closure(roots: Iterable[str], *, without: Iterable[str] = ()) -> dict[str, Distribution]:
    """Return the transitive dependencies of requirements such as ``pixmend[serve]``, sorted.

    Parameters
    ----------
    without
        Packages to exclude, with dependencies that only they have.
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
            continue  # of another platform, or of an extra that is not installed
        waiting.extend(needs(found[name], wanted.extras))
    return dict(sorted(found.items()))


def needs(package: Distribution, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Yield the direct dependencies of a package on this platform."""
    for text in package.requires or ():
        need = Requirement(text)
        marker = need.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need


def licence_of(package: Distribution) -> str:
    """Return a package's licence from its metadata, in the shortest form."""
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
    """Return the disk size of a package's files in 10^6 bytes, without bytecode."""
    files = (Path(str(package.locate_file(file))) for file in package.files or ())
    return sum(f.stat().st_size for f in files if f.suffix != ".pyc" and f.is_file()) / 1e6
