"""A trained model."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pixmend.models.dcgan import Discriminator, Generator
from pixmend.models.inpainter import Inpainted, Inpainter, inpaint, inpainter_latents
from pixmend.models.retrieval import Retrieval
from pixmend.models.settings import DCGANSettings


@dataclass(frozen=True)
class DCGAN:
    """Trained networks, in evaluation mode with frozen batch statistics."""

    settings: DCGANSettings
    generator: Generator
    discriminator: Discriminator
    # Facts for people, such as training data, duration and scores; JSON values only.
    card: dict[str, Any] = field(default_factory=dict)
    inpainter: Inpainter | None = None  # if `settings.inpainter_filters` is above 0
    retrieval: Retrieval | None = None  # training images, if `settings.retrieval_images` is above 0

    def inpaint(self, target: Tensor, known: Tensor, *, draws: int = 0, seed: int = 0) -> Inpainted:
        """Complete images [B, C, S, S] in [-1, 1] with known share [B, 1, S, S]; see `pixmend.models.inpainter.inpaint`."""
        assert self.inpainter is not None
        z = inpainter_latents(draws, seed=seed).to(target.device)
        return inpaint(self.inpainter, self.retrieval, target, known, z)
