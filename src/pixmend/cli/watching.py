"""What `pixmend complete` shows of its work beside the answers: sheets over many images, and films of the searches."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from pixmend.cli.outputs import real_path
from pixmend.completion import Names, beside
from pixmend.errors import SettingsError

if TYPE_CHECKING:
    from pixmend.completion import Completion
    from pixmend.images import Pixels
    from pixmend.storage import StorePath

_ROWS = 40  # images a sheet
_CELL = 128  # pixels
_FRAME = 256  # pixels of a film's longer side


class Sheets:
    """Contact sheets over many images, ``sheet.png``, ``sheet-2.png`` ...: each is written when it is full."""

    def __init__(self, folder: "StorePath", names: "Names") -> None:
        self._folder, self._names = folder, names
        self._rows: list[Mapping[str, Pixels]] = []  # caption -> small picture
        self._labels: list[str] = []
        self._written = 0

    def add(self, label: str, result: "Completion") -> None:
        """Add a row: original, masked, snapshots, answers."""
        from pixmend.images import thumbnail

        small = (thumbnail(pixels, _CELL) for pixels in result.row())
        self._rows.append(dict(zip(result.captions(), small, strict=True)))
        self._labels.append(label)
        if len(self._rows) == _ROWS:
            self.close()

    def close(self) -> None:
        """Write the rows at hand as a sheet."""
        from pixmend.images import contact_sheet, encode_png

        if not self._rows:
            return
        self._written += 1
        ending = "" if self._written == 1 else f"-{self._written}"
        name = self._names.free(
            PurePath(f"sheet{ending}.png"), PurePath(f"contact-sheet{ending}.png")
        )
        # An image of which nothing was missing has no snapshots: its row has gaps.
        captions = max(self._rows, key=len)
        rows = [[row.get(caption) for caption in captions] for row in self._rows]
        sheet = contact_sheet(rows, list(captions), cell=_CELL, labels=self._labels)
        (self._folder / name).write_bytes(encode_png(sheet))
        self._rows, self._labels = [], []


class Films:
    """Films of searches: PATH for one image; of several a folder, PATH without .gif, with a film under each result's name.

    Raises
    ------
    SettingsError
        PATH is no GIF, or in the way of an input.
    """

    def __init__(self, path: Path, inputs: Sequence[Path], *, one: bool) -> None:
        if path.suffix.lower() != ".gif":
            raise SettingsError(f"--film {path}: films are GIFs; give a name that ends in .gif")
        self._one = one
        self._place = path if self._one else path.with_suffix("")
        self._names = Names()
        taken = real_path(self._place)
        for given in inputs:
            if taken in (real_path(given), *real_path(given).parents):
                raise SettingsError(f"--film {path}: {given} is an input; give another name")

    @property
    def folder(self) -> Path | None:
        """The folder that holds nothing but films; None for one film, which is put where the user says."""
        return None if self._one else self._place

    def write(self, result: "Completion", target: PurePath) -> Path:
        """Write the film of a completion whose answer is called ``target``, and return where."""
        from pixmend.completion import animation_frames
        from pixmend.images import thumbnail, write_animation

        name = beside(target, f"{target.suffix}.gif")
        path = self._place if self._one else self._place / self._names.free(name, name)
        write_animation([thumbnail(frame, _FRAME) for frame in animation_frames(result)], path)
        return path
