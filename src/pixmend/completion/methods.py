"""The methods a user can name: the published ones with their settings, and the default."""

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from pixmend.completion.blend import BLENDS, Blend
from pixmend.completion.objective import (
    Contextual,
    Objective,
    Perceptual,
    contextual_l1,
    contextual_squared,
    contextual_weights,
    negative_logit,
    yeh_prior,
)
from pixmend.completion.search import SearchState, adam, nesterov
from pixmend.completion.start import best_of_bank, uniform_starts
from pixmend.errors import SettingsError
from pixmend.models import DCGAN, Condition, DCGANSettings, clip_radius

__all__ = ["METHODS", "Method", "find_method"]


@dataclass(frozen=True)
class Method:
    """A way to complete, all of it in one value.

    Attributes
    ----------
    steps, encoded_steps
        Updates of z: from a start without an encoder, and from the encoder's.
    contextual, contextual_weight, window, floor
        The contextual loss, its weight in the sum, and how known pixels are weighed (see `contextual_weights`).
    perceptual, prior_weight
        The perceptual loss and its weight (lambda).
    solver, learning_rate
        Adam, or Nesterov with momentum 0.9.
    scheduled
        Adam's rate warms up over the first 5 % of the steps and falls to 0 by half a cosine.
    clip
        Bound of |z_i|; None for the bulk of the model's own prior.
    encoder
        "never"; "if there", to start from the encoder's posterior, and tell G what it saw, where the model has one; or "always".
    bank
        Otherwise: draws from the prior of which the best are the starts; 0 starts anywhere in U(-1, 1).
    restarts
        Searches an image, of which the best counts; from the encoder's start one will do.
    blend
        How the hole is joined to the known pixels.
    """

    name: str
    steps: int
    encoded_steps: int
    contextual: Contextual
    contextual_weight: float
    window: int
    floor: float
    perceptual: Perceptual
    prior_weight: float
    solver: Literal["adam", "nesterov"]
    learning_rate: float
    scheduled: bool
    clip: float | None
    encoder: Literal["never", "if there", "always"]
    bank: int
    restarts: int
    blend: Blend

    def fitted(self, model: DCGAN) -> "Method":
        """Return the method as it goes with this model: from the encoder's start, if it asks it, in fewer steps."""
        if not self.uses_encoder(model):
            return self
        return replace(self, steps=self.encoded_steps, restarts=1)

    def uses_encoder(self, model: DCGAN) -> bool:
        """Whether the encoder is asked.

        Raises
        ------
        SettingsError
            The method needs one and the model has none.
        """
        if self.encoder == "always" and model.encoder is None:
            raise SettingsError(
                f"method {self.name}: this model has no encoder; train one with --set encoder=conditional "
                "--set latent_prior=normal, or complete with --method default"
            )
        return self.encoder != "never" and model.encoder is not None

    def objective(
        self, model: DCGAN, target: Tensor, known: Tensor, condition: Condition | None = None
    ) -> Objective:
        """Return the objective for images [B, C, H, W] of which ``known`` [B, 1, H, W] is 1 where given."""
        return Objective(
            model.generator,
            model.discriminator,
            target,
            contextual_weights(known, self.window, self.floor),
            self.contextual,
            self.perceptual,
            self.contextual_weight,
            self.prior_weight,
            condition,
        )

    def starts(
        self, objective: Objective, settings: DCGANSettings, lanes: int, seed: int
    ) -> Tensor:
        """Return the starts of ``lanes`` searches an image, [B, lanes, latent_dim]."""
        if self.bank:
            bank, clip = max(self.bank, lanes), self._clip(settings)
            return best_of_bank(objective, settings, lanes, bank=bank, seed=seed, clip=clip)
        starts = uniform_starts(settings, lanes, seed=seed).to(objective.target.device)
        return starts.expand(len(objective.target), -1, -1)

    def search(
        self, objective: Objective, z: Tensor, settings: DCGANSettings
    ) -> Iterator[SearchState]:
        """Run the solver from ``z`` [B, latent_dim]."""
        clip = self._clip(settings)
        if self.solver == "nesterov":
            return nesterov(
                objective, z, steps=self.steps, learning_rate=self.learning_rate, clip=clip
            )
        return adam(
            objective,
            z,
            steps=self.steps,
            learning_rate=self.learning_rate,
            clip=clip,
            warm_up=0.05 if self.scheduled else 0.0,
            cosine=self.scheduled,
        )

    def _clip(self, settings: DCGANSettings) -> float:
        return clip_radius(settings) if self.clip is None else self.clip


_YEH = Method(
    name="yeh",
    steps=1500,
    encoded_steps=0,
    contextual=contextual_l1,
    contextual_weight=1.0,
    window=7,
    floor=0.0,
    perceptual=yeh_prior,
    prior_weight=0.003,
    solver="adam",
    learning_rate=0.01,
    scheduled=False,
    clip=1.0,
    encoder="never",
    bank=0,
    restarts=1,
    blend="poisson",
)

_DEFAULT = replace(
    _YEH,
    name="default",
    steps=1000,
    encoded_steps=50,
    floor=0.1,
    prior_weight=0.3,
    learning_rate=0.05,
    scheduled=True,
    clip=None,
    encoder="if there",
    bank=1024,
    restarts=4,
)

METHODS: dict[str, Method] = {
    "default": _DEFAULT,
    # One pass of the encoder and G, no search.
    "instant": replace(_DEFAULT, name="instant", encoded_steps=0, encoder="always"),
    # The seed system: centre mask, 1,000 steps, 0.999 * squared error + 0.001 * D's output, the hole pasted.
    "seed": Method(
        name="seed",
        steps=1000,
        encoded_steps=0,
        contextual=contextual_squared,
        contextual_weight=0.999,
        window=0,
        floor=1.0,
        perceptual=negative_logit,
        prior_weight=0.001,
        solver="nesterov",
        learning_rate=0.01,
        scheduled=False,
        clip=1.0,
        encoder="never",
        bank=0,
        restarts=1,
        blend="paste",
    ),
    # Yeh et al. 2017, section 4; the rate of Adam is not in the paper, 0.01 is that of its public ports.
    "yeh": _YEH,
}


def find_method(name: str, *, steps: int | None = None, blend: Blend | None = None) -> Method:
    """Return a method by name, with another number of steps or another blend if given.

    Raises
    ------
    SettingsError
        Unknown method or blend (the names are offered), or a number of steps out of range.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"method: no {name!r}; there are {', '.join(METHODS)}{hint}")
    method = METHODS[name]
    if steps is not None:
        if not (1 <= steps <= 1_000_000 and math.isfinite(steps)):
            raise SettingsError(f"steps = {steps}: needs a whole number from 1 to 1000000")
        method = replace(method, steps=steps, encoded_steps=steps)
    if blend is None:
        return method
    if blend not in BLENDS:
        raise SettingsError(f"blend: no {blend!r}; there are {', '.join(BLENDS)}")
    return replace(method, blend=blend)
