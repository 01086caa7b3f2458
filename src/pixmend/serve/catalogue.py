"""The models that a server offers, and what the page shows of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from pixmend.api import Model, load
from pixmend.completion import METHODS
from pixmend.images import encode_png, grid
from pixmend.models import find_model
from pixmend.models.examples import EXAMPLES, held_out_images
from pixmend.serve.security import Problem
from pixmend.storage import StorePath

_HIDDEN_FACTS = ("calibration", "data", "examples")  # long; a path on the server's disk

# The stops of the page's slider from instant to best.
_EFFORT = ("label", "method", "seconds", "words")
_INPAINTER_EFFORTS = (
    ("Instant", "instant", None, "One pass, a few hundredths of a second."),
    ("Thorough", "default", None, "Compares several answers; under a second."),
    ("Best", "best", None, "Four times as many answers to choose from."),
)
_SEARCH_EFFORTS = (
    ("1 s", "default", 1.0, "Searches for one second."),
    ("3 s", "default", 3.0, "Searches for three seconds."),
    ("10 s", "default", 10.0, "Searches for ten seconds."),
    ("Full", "default", None, "A full search; up to a minute."),
    ("Best", "best", None, "Twice the searches, then refined; minutes."),
)


@dataclass(frozen=True)
class ServedModel:
    """A model under an id that is not a path."""

    id: str
    model: Model
    held_out: Sequence[bytes] = ()  # files of images that it was not trained on

    def facts(self) -> dict[str, Any]:
        """Return the model's public facts as JSON values."""
        settings, card = self.model.settings, self.model.card
        has_inpainter = settings.inpainter_filters > 0
        efforts = _INPAINTER_EFFORTS if has_inpainter else _SEARCH_EFFORTS
        return {
            "id": self.id,
            "size": settings.size,
            "channels": settings.channels,
            "inpainter": has_inpainter,
            "methods": [name for name in METHODS if has_inpainter or name != "instant"],
            "efforts": [dict(zip(_EFFORT, row, strict=True)) for row in efforts],
            "examples": len(self.examples),
            "drawn_examples": not self.held_out,
            "card": {key: value for key, value in card.items() if key not in _HIDDEN_FACTS},
        }

    @cached_property
    def samples(self) -> bytes:
        """A grid of 24 generated images, PNG."""
        return encode_png(grid(self.model.sample(24, seed=0), columns=8, min_cell=48))

    @cached_property
    def examples(self) -> list[bytes]:
        """Image files to try: held-out ones, or generated ones where the model has none."""
        drawn = [] if self.held_out else self.model.sample(EXAMPLES, seed=1)
        return [*self.held_out, *map(encode_png, drawn)]


class Catalogue(dict[str, ServedModel]):
    """The served models by id; the first is the default."""

    @classmethod
    def load(cls, models: Sequence[str], *, device: str = "auto") -> Self:
        """Load models, each named as for `pixmend.load`, which raises ModelFileError."""
        catalogue = cls()
        for name in models:
            stem = re.sub(r"[^A-Za-z0-9_-]+", "-", StorePath.of(name).stem).strip("-") or "model"
            ids = (stem, *(f"{stem}-{number}" for number in range(2, len(models) + 2)))
            model_id = next(each for each in ids if each not in catalogue)
            model = load(name, device=device)
            held_out = held_out_images(find_model(name), model.card)
            catalogue[model_id] = ServedModel(model_id, model, held_out)
        return catalogue

    def find(self, model_id: str) -> ServedModel:
        """Return a model by id, the default for an empty one; an unknown id is `Problem` 404."""
        if not model_id:
            return next(iter(self.values()))
        if model_id not in self:
            message = f"There is no such model here; there are {', '.join(self)}."
            raise Problem(404, "model", message)
        return self[model_id]
