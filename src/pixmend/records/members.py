"""What a container of images holds, whatever its kind."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

MAX_MEMBER_BYTES = 512 * 2**20


class Member(NamedTuple):
    """One image in a container: its name there, its class, where it lies, and why it is left out if it is."""

    name: str
    class_text: str | None
    place: tuple[int, ...]
    reason: str = ""


def class_depth(files: Iterable[str]) -> int:
    """Return the level of folders that tells files apart: the first below which there are several.

    An archive unpacked as English/Fnt/Sample001 ... has its classes two levels down. Where nothing
    branches, the first level is the class.
    """
    common: list[str] | None = None
    branches = False
    for file in files:
        parents = file.split("/")[:-1]
        if common is None:
            common = parents
        elif parents != common:
            branches = True
            pairs = zip(common, parents, strict=False)
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
            common = [name for name, _ in same]
    return len(common) if branches and common is not None else 0
