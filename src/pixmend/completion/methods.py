"""The methods a user can name: the published ones with their settings, and the default."""

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor

from pixmend.completion.blend import BLENDS, Blend
from pixmend.completion.bounds import latent_clip
from pixmend.completion.objective import (
    Contextual,
    Objective,
    Perceptual,
    Term,
    contextual_l1,
    contextual_mean_squared,
    contextual_squared,
    contextual_weights,
    latent_norm,
    negative_logit,
    nonsaturating_prior,
    yeh_prior,
)
from pixmend.completion.search import adam, nesterov
from pixmend.completion.second_order import lbfgs
from pixmend.completion.start import Draw, best_of_pool, drawn_starts
from pixmend.completion.state import SearchState
from pixmend.errors import SettingsError
from pixmend.models import DCGAN, Condition, DCGANSettings, clip_radius

SOLVERS: dict[str, Callable[..., Iterator[SearchState]]] = {
    "adam": adam,
    "nesterov": nesterov,
    "lbfgs": lbfgs,
}
_ENDLESS = 10**12  # steps; at a microsecond each, eleven days


@dataclass(frozen=True)
class Method:
    """A way to complete, all of it in one value.

    Attributes
    ----------
    steps, encoded_steps
        Updates of z: from a start without an encoder, and from the encoder's.
    contextual, contextual_weight, weight_window, min_weight
        The contextual loss, its weight in the sum, and how known pixels are weighed (see `contextual_weights`).
    perceptual, lambda_perceptual
        The perceptual loss and its weight (lambda).
    solver, learning_rate
        Adam, Nesterov with momentum 0.9, or L-BFGS.
    scheduled
        Adam's rate warms up over the first 5 % of the steps and falls to 0 by half a cosine.
    latent_clip
        Bound of |z_i|, starts included; None for the bulk of the model's own prior.
    encoder
        "never"; "if there", to start from the encoder's posterior, and tell G what it saw, where the model has one; or "always".
    bank
        Otherwise: draws from the prior of which the best are the starts; 0 starts at a draw as `draw` says.
    restarts
        Searches an image, of which the best counts; from the encoder's start one will do.
    blend
        How the hole is joined to the known pixels.
    draw
        Starts without bank and encoder: U(-1, 1), N(0, 1), or N(0, 1) clamped to [-1, 1].
    decay
        Nesterov's rate is multiplied by it after each 100 steps.
    terms
        Further terms of the objective, each with its weight.
    patience, tolerance
        A search stops when its objective has not fallen by this share of itself within so many steps; with patience 0 it never does.
    neighbours
        Of so many training images nearest on the known pixels, where the model has a memory, the encoder leans on those that give
        the best starts (see `pixmend.completion.lean.rank_by_consensus`).
    refine
        Steps of refining: of a copy of the encoder on the image at hand, or where there is none of G's first layer after the search
        (see `pixmend.completion.refine`).
    """

    name: str
    steps: int
    encoded_steps: int
    contextual: Contextual
    contextual_weight: float
    weight_window: int
    min_weight: float
    perceptual: Perceptual
    lambda_perceptual: float
    solver: Literal["adam", "nesterov", "lbfgs"]
    learning_rate: float
    scheduled: bool
    latent_clip: float | None
    encoder: Literal["never", "if there", "always"]
    bank: int
    restarts: int
    blend: Blend
    draw: Draw = "uniform"
    decay: float = 1.0
    terms: tuple[tuple[Term, float], ...] = ()
    patience: int = 0
    tolerance: float = 1e-4
    neighbours: int = 1
    refine: int = 0

    def for_model(self, model: DCGAN) -> "Method":
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
            known,
            contextual_weights(known, self.weight_window, self.min_weight),
            self.contextual,
            self.perceptual,
            self.contextual_weight,
            self.lambda_perceptual,
            condition,
            self.terms,
        )

    def starts(
        self, objective: Objective, settings: DCGANSettings, lanes: int, seed: int
    ) -> Tensor:
        """Return the starts of ``lanes`` searches an image, [B, lanes, latent_dim]."""
        radius = self._radius(settings)
        if self.bank:
            bank = max(self.bank, lanes)
            return best_of_pool(objective, settings, lanes, bank=bank, seed=seed, clip=radius)
        starts = drawn_starts(settings, lanes, self.draw, seed=seed).clamp(-radius, radius)
        return starts.to(objective.target.device).expand(len(objective.target), -1, -1)

    def search(
        self,
        objective: Objective,
        z: Tensor,
        settings: DCGANSettings,
        *,
        endless: bool = False,
    ) -> Iterator[SearchState]:
        """Run the solver from ``z`` [B, latent_dim]; ``endless`` goes on past ``steps`` until the caller stops."""
        solver = SOLVERS[self.solver]
        if self.solver == "adam":
            warmup = 0.05 if self.scheduled else 0.0
            solver = partial(adam, warmup=warmup, cosine=self.scheduled, period=self.steps)
        elif self.solver == "nesterov":
            solver = partial(nesterov, decay=self.decay)
        return solver(
            objective,
            z,
            steps=_ENDLESS if endless and self.steps else self.steps,
            learning_rate=self.learning_rate,
            projection=latent_clip(self._radius(settings)),
            patience=self.patience,
            tolerance=self.tolerance,
        )

    def _radius(self, settings: DCGANSettings) -> float:
        return clip_radius(settings) if self.latent_clip is None else self.latent_clip


_YEH = Method(
    name="yeh",
    steps=1500,
    encoded_steps=0,
    contextual=contextual_l1,
    contextual_weight=1.0,
    weight_window=7,
    min_weight=0.0,
    perceptual=yeh_prior,
    lambda_perceptual=0.003,
    solver="adam",
    learning_rate=0.01,
    scheduled=False,
    latent_clip=1.0,
    encoder="never",
    bank=0,
    restarts=1,
    blend="poisson",
)

_DEFAULT = replace(
    _YEH,
    name="default",
    steps=1000,
    encoded_steps=0,  # 50 fit the known pixels and left the hole as it was (docs/benchmarks.md)
    min_weight=0.1,
    lambda_perceptual=0.3,
    learning_rate=0.05,
    scheduled=True,
    latent_clip=None,
    encoder="if there",
    bank=1024,
    restarts=4,
    neighbours=8,
)

_CSGM = replace(
    _YEH,
    name="csgm",
    steps=500,
    contextual=contextual_mean_squared,
    weight_window=0,
    min_weight=1.0,
    lambda_perceptual=0.0,
    learning_rate=0.1,
    latent_clip=math.inf,
    restarts=2,
    blend="paste",
    draw="normal",
    terms=((latent_norm, 0.001),),
)

METHODS: dict[str, Method] = {
    "default": _DEFAULT,
    # One pass of the encoder and G, no search.
    "instant": replace(_DEFAULT, name="instant", encoded_steps=0, encoder="always", neighbours=1),
    # All of `default`, and what more time buys.
    "best": replace(_DEFAULT, name="best", bank=4096, restarts=8, refine=12),
    # The seed system: centre mask, 1,000 steps, 0.999 * squared error + 0.001 * D's output, the hole pasted.
    "classic": Method(
        name="classic",
        steps=1000,
        encoded_steps=0,
        contextual=contextual_squared,
        contextual_weight=0.999,
        weight_window=0,
        min_weight=1.0,
        perceptual=negative_logit,
        lambda_perceptual=0.001,
        solver="nesterov",
        learning_rate=0.01,
        scheduled=False,
        latent_clip=1.0,
        encoder="never",
        bank=0,
        restarts=1,
        blend="paste",
    ),
    # Yeh et al. 2017, section 4; the rate of Adam is not in the paper, 0.01 is that of its public ports.
    "yeh": _YEH,
    # The ports of Yeh's method take G's loss, -log D, for the prior. Theirs is a batch's mean; here it is each image's own.
    "bamos": replace(
        _YEH,
        name="bamos",
        steps=1000,
        weight_window=0,
        min_weight=1.0,
        perceptual=nonsaturating_prior,
        lambda_perceptual=0.1,
        blend="paste",
    ),
    "chengbinjin": replace(
        _YEH,
        name="chengbinjin",
        draw="normal",
        perceptual=nonsaturating_prior,
        lambda_perceptual=3.0,
        solver="nesterov",
        decay=0.95,
    ),
    "moodoki": replace(
        _YEH,
        name="moodoki",
        draw="normal",
        steps=3000,
        weight_window=15,
        perceptual=nonsaturating_prior,
        lambda_perceptual=0.2,
        solver="nesterov",
        learning_rate=3e-4,
    ),
    # Bora et al. 2017, section 6: the CelebA DCGAN's numbers.
    "csgm": _CSGM,
    # Park et al. 2020, with nothing cut off G: squared error of images in [0, 1], hence a quarter. 25 calls of an L-BFGS that takes
    # up to 20 steps each.
    "surgery": replace(
        _CSGM,
        name="surgery",
        steps=25 * 20,
        contextual_weight=0.25,
        solver="lbfgs",
        draw="clamped normal",
        restarts=3,
        terms=(),
        patience=20,
        tolerance=1e-6,
    ),
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
