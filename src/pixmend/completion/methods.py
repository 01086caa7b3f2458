"""The methods of completion, by name: the published ones with their settings, and the default."""

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor

from pixmend.completion.blend import BLENDS, Blend
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
from pixmend.completion.quasi_newton import lbfgs
from pixmend.completion.solvers import SearchState, adam, latent_clip, nesterov
from pixmend.errors import SettingsError
from pixmend.models import DCGAN, DCGANSettings, clip_radius
from pixmend.rng import is_whole

SOLVERS: dict[str, Callable[..., Iterator[SearchState]]] = {
    "adam": adam,
    "nesterov": nesterov,
    "lbfgs": lbfgs,
}
_ENDLESS = 10**12  # steps; at a microsecond each, eleven days

InitDistribution = Literal["uniform", "normal", "clamped normal"]


@dataclass(frozen=True)
class Method:
    """The settings of a method."""

    name: str
    steps: int  # updates of z in a search
    contextual: Contextual
    contextual_weight: float
    weight_window: int  # weights of known pixels: see `contextual_weights`
    min_weight: float
    perceptual: Perceptual
    lambda_perceptual: float
    solver: Literal["adam", "nesterov", "lbfgs"]
    learning_rate: float
    scheduled: bool  # Adam's rate rises over 5 % of the steps, and falls to 0 by half a cosine
    latent_clip: float | None  # bound of |z_i|; None for the bulk of the model's own prior
    inpainter: Literal["never", "if there", "always"]  # in place of a search
    init_pool: int  # prior samples whose best start the search; 0: draws of ``init_distribution``
    restarts: int  # searches an image; the best counts
    blend: Blend  # how the hole is joined to the known pixels
    init_distribution: InitDistribution = "uniform"  # U(-1, 1), N(0, 1), or that in [-1, 1]
    decay: float = 1.0  # factor of Nesterov's rate after each 100 steps
    terms: tuple[tuple[Term, float], ...] = ()  # further ones of the objective, with weights
    patience: int = 0  # early stopping: see `pixmend.completion.solvers.BestTracker`
    tolerance: float = 1e-4
    finetune: int = 0  # steps of `pixmend.completion.finetune` after a search
    draws: int = 8  # of the inpainter

    def for_model(self, model: DCGAN) -> "Method":
        """Return the method for this model: without a step of search, where its inpainter is used."""
        return replace(self, steps=0) if self.uses_inpainter(model) else self

    def uses_inpainter(self, model: DCGAN) -> bool:
        """Return whether it uses this model's inpainter; SettingsError if it needs one that is missing."""
        if self.inpainter == "always" and model.inpainter is None:
            raise SettingsError(
                f"method {self.name}: this model has no inpainter; train one with --set inpainter_filters=32, "
                "or complete with --method default"
            )
        return self.inpainter != "never" and model.inpainter is not None

    def objective(self, model: DCGAN, target: Tensor, known: Tensor) -> Objective:
        """Return the objective of images [B, C, H, W] in [-1, 1]; ``known`` [B, 1, H, W] is the known share of each pixel."""
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
            self.terms,
        )

    def search(
        self, objective: Objective, z: Tensor, settings: DCGANSettings, *, endless: bool
    ) -> Iterator[SearchState]:
        """Run the solver from ``z`` [B, latent_dim]; ``endless`` continues past ``steps`` until the caller stops."""
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
            projection=latent_clip(self.latent_radius(settings)),
            patience=self.patience,
            tolerance=self.tolerance,
        )

    def latent_radius(self, settings: DCGANSettings) -> float:
        return clip_radius(settings) if self.latent_clip is None else self.latent_clip


_YEH = Method(
    name="yeh",
    steps=1500,
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
    inpainter="never",
    init_pool=0,
    restarts=1,
    blend="poisson",
)

_DEFAULT = replace(
    _YEH,
    name="default",
    steps=1000,
    min_weight=0.1,
    lambda_perceptual=0.3,
    learning_rate=0.05,
    scheduled=True,
    latent_clip=None,
    inpainter="if there",
    init_pool=1024,
    restarts=4,
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
    init_distribution="normal",
    terms=((latent_norm, 0.001),),
)

METHODS: dict[str, Method] = {
    "default": _DEFAULT,
    # One pass of the inpainter, no search.
    "instant": replace(_DEFAULT, name="instant", inpainter="always", draws=1),
    # `default` with more draws or, in a search, a larger pool, more restarts and fine-tuning.
    "best": replace(_DEFAULT, name="best", init_pool=4096, restarts=8, finetune=12, draws=32),
    # The mission's method: 1,000 steps on 0.999 * squared error + 0.001 * D's output, the hole pasted.
    "classic": replace(
        _YEH,
        name="classic",
        steps=1000,
        contextual=contextual_squared,
        contextual_weight=0.999,
        weight_window=0,
        min_weight=1.0,
        perceptual=negative_logit,
        lambda_perceptual=0.001,
        solver="nesterov",
        blend="paste",
    ),
    # Yeh et al. 2017, section 4. The paper gives no rate of Adam; 0.01 is that of its public ports.
    "yeh": _YEH,
    # Public ports of Yeh's method use G's loss, -log D, as the prior: theirs a batch's mean, ours each image's own.
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
        init_distribution="normal",
        perceptual=nonsaturating_prior,
        lambda_perceptual=3.0,
        solver="nesterov",
        decay=0.95,
    ),
    "moodoki": replace(
        _YEH,
        name="moodoki",
        init_distribution="normal",
        steps=3000,
        weight_window=15,
        perceptual=nonsaturating_prior,
        lambda_perceptual=0.2,
        solver="nesterov",
        learning_rate=3e-4,
    ),
    # Bora et al. 2017, section 6: the CelebA DCGAN's numbers.
    "csgm": _CSGM,
    # Park et al. 2020, with all of G: squared error of images in [0, 1], hence a quarter; 25 calls of up to 20 L-BFGS steps.
    "surgery": replace(
        _CSGM,
        name="surgery",
        steps=25 * 20,
        contextual_weight=0.25,
        solver="lbfgs",
        init_distribution="clamped normal",
        restarts=3,
        terms=(),
        patience=20,
        tolerance=1e-6,
    ),
}


def find_method(name: str, *, steps: int | None = None, blend: Blend | None = None) -> Method:
    """Return a method by name, with another number of steps or another blend; SettingsError if unknown.

    A number of steps asks for a search, whether or not the model has an inpainter.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"method: no {name!r}; there are {', '.join(METHODS)}{hint}")
    method = METHODS[name]
    if steps is not None:
        if not is_whole(steps, 1, 1_000_000):
            raise SettingsError(f"steps = {steps}: needs a whole number from 1 to 1000000")
        method = replace(method, steps=steps, inpainter="never")
    if blend is None:
        return method
    if blend not in BLENDS:
        raise SettingsError(f"blend: no {blend!r}; there are {', '.join(BLENDS)}")
    return replace(method, blend=blend)
