"""The models that a server offers, each under an id, and what the page shows of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pixmend.api import Model, load
from pixmend.completion import METHODS
from pixmend.images import encode_png, find_images, grid
from pixmend.models import BUNDLED

_EXAMPLES = 8


@dataclass(frozen=True)
class ServedModel:
    """A model, and an id for it that is no path."""

    id: str
    model: Model

    @property
    def has_inpainter(self) -> bool:
        """Whether it can complete in one pass."""
        return self.model.settings.inpainter_filters > 0

    def facts(self) -> dict[str, Any]:
        """Return what a client may know of it, JSON values."""
        settings = self.model.settings
        hidden = ("calibration", "data")  # long; and a path on the server's disk
        return {
            "id": self.id,
            "size": settings.size,
            "channels": settings.channels,
            "inpainter": settings.inpainter_filters > 0,
            "methods": [name for name in METHODS if self.has_inpainter or name != "instant"],
            "efforts": self.efforts(),
            "examples": len(self.examples),
            "drawn_examples": self._bundled is None,
            "card": {key: value for key, value in self.model.card.items() if key not in hidden},
        }

    def efforts(self) -> list[dict[str, Any]]:
        """Return the stops of one slider from instant to best."""
        if self.has_inpainter:
            return [
                _effort("Instant", "instant", None, "One pass, a few hundredths of a second."),
                _effort("Thorough", "default", None, "Compares several answers; under a second."),
                _effort("Best", "best", None, "Tunes the model on this image; several seconds."),
            ]
        return [
            _effort("1 s", "default", 1.0, "Searches for one second."),
            _effort("3 s", "default", 3.0, "Searches for three seconds."),
            _effort("10 s", "default", 10.0, "Searches for ten seconds."),
            _effort("Full", "default", None, "A full search; up to a minute."),
            _effort("Best", "best", None, "Twice the searches, then refined; minutes."),
        ]

    @cached_property
    def samples(self) -> bytes:
        """A grid of 24 images drawn from the model, PNG."""
        return encode_png(grid(self.model.sample(24, seed=0), columns=8, min_cell=48))

    @cached_property
    def examples(self) -> list[bytes]:
        """Images to try: those bundled with the model, or draws of its own, as image files."""
        if self._bundled is None:
            return [encode_png(image) for image in self.model.sample(_EXAMPLES, seed=1)]
        files = list(find_images(self._bundled))
        return [path.read_bytes() for path in files[:: max(1, len(files) // _EXAMPLES)][:_EXAMPLES]]

    @property
    def _bundled(self) -> Path | None:
        folder = BUNDLED / self.id
        return folder if folder.is_dir() else None


class Catalogue(Mapping[str, ServedModel]):
    """Offers by id; the first is the one that is meant when none is named."""

    def __init__(self, offers: Sequence[ServedModel]) -> None:
        self._offers = {offer.id: offer for offer in offers}

    @classmethod
    def load(cls, models: Sequence[str], *, device: str = "auto") -> "Catalogue":
        """Load models named as `pixmend.load` takes them.

        Raises
        ------
        ModelFileError
            See there.
        """
        offers: list[ServedModel] = []
        for model in models:
            wanted = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(model).stem).strip("-") or "model"
            taken = {offer.id for offer in offers}
            names = (wanted, *(f"{wanted}-{number}" for number in range(2, len(models) + 2)))
            offers.append(
                ServedModel(next(n for n in names if n not in taken), load(model, device=device))
            )
        return cls(offers)

    @property
    def first(self) -> ServedModel:
        """The default."""
        return next(iter(self._offers.values()))

    def __getitem__(self, key: str) -> ServedModel:
        return self._offers[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._offers)

    def __len__(self) -> int:
        return len(self._offers)


def _effort(label: str, method: str, seconds: float | None, words: str) -> dict[str, Any]:
    return {"label": label, "method": method, "seconds": seconds, "words": words}
