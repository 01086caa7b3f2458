"""The library's verbs: what `import pixmend` offers, and what the command line calls.

pack(folder, records)  ->  train(records, run)  ->  load(run).complete(image, mask)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pixmend import completion, evaluation, models, records, training
from pixmend.completion import (
    Answer,
    Blend,
    Completion,
    CompletionOptions,
    Preview,
    Task,
    View,
    find_method,
    open_mask,
)
from pixmend.distributed import choose_device, open_group
from pixmend.evaluation import (
    Evaluation,
    EvaluationEngine,
    EvaluationImages,
    EvaluationSpec,
    ModelUnderTest,
    Step,
    TrainingImages,
)
from pixmend.images import (
    Channels,
    Fit,
    Pixels,
    images_at,
    open_image,
    to_pixels,
)
from pixmend.records import Manifest, PackProgress, PackSettings, Records
from pixmend.rng import generator_for
from pixmend.storage import StorePath, sha256_of
from pixmend.training import Progress, plan_training, prepare_records, resolve_training

__all__ = [
    "Model",
    "complete",
    "evaluate",
    "load",
    "pack",
    "plan_training",
    "prepare_records",
    "resolve_training",
    "train",
    "write_tasks",
]


class Model:
    """A trained model, ready to complete and to sample; `load` makes one."""

    def __init__(self, networks: models.DCGAN, device: str = "auto") -> None:
        chosen = choose_device(device)
        for network in filter(None, (networks.generator, networks.discriminator, networks.encoder)):
            # In training mode an image's answer would depend on its batch mates.
            network.to(chosen).eval().requires_grad_(False)
        memory = networks.retrieval
        if memory is not None:
            networks = replace(networks, retrieval=models.Retrieval(memory.images.to(chosen)))
        self._networks = networks

    @property
    def settings(self) -> models.DCGANSettings:
        """The settings of the networks."""
        return self._networks.settings

    @property
    def networks(self) -> models.DCGAN:
        """The networks, on their device, in evaluation mode."""
        return self._networks

    @property
    def card(self) -> dict[str, Any]:
        """The model card: data, steps, figures."""
        return self._networks.card

    def complete(
        self,
        image: Any,  # noqa: ANN401 - a path, PIL image or array
        mask: Any = "center",  # noqa: ANN401 - a SPEC, path, PIL image or array
        *,
        method: str = "default",
        steps: int | None = None,
        candidates: int = 1,
        snapshots: Sequence[int] = (500, 1000),
        seed: int = 0,
        seconds: float | None = None,
        answer: Answer = "sharp",
        blend: Blend | None = None,
        view: View = "whole",
    ) -> Completion:
        """Complete one image.

        Parameters
        ----------
        image
            A path, a PIL image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of any size: uint8, floats in [0, 1], or grey
            uint16.
        mask
            A SPEC such as ``"center:0.5"`` (see `pixmend.masks`), a path, a PIL image or an array; white (>= 128, or True) = hole.
        method, steps, candidates, seed
            A name of `pixmend.completion.METHODS` and its number of steps, if not its own; the number of
            distinct answers, 1 to 64; and the random seed: equal calls give equal answers.
        snapshots, seconds
            Steps whose state is kept, and a time limit: see `pixmend.completion.CompletionOptions`.
        answer
            ``sharp``, to look at; or ``average``, the mean of all answers, which errs least and blurs.
        blend
            ``paste``, ``feather`` or ``poisson``, if not the method's own; see `pixmend.completion.blend`.
        view
            ``whole`` shows the model the image as its training images were shown, ``window`` a square around each hole.

        Returns
        -------
        Completion
            ``.best`` has the type of ``image``; known pixels are bit-identical.

        Raises
        ------
        ImageError, MaskError, SettingsError
            The image, the mask or an option cannot be used; the message says why.
        """
        picture = open_image(image)
        task = Task(picture, open_mask(mask, picture, seed=seed), picture.name)
        chosen = find_method(method, steps=steps, blend=blend)
        options = CompletionOptions(
            chosen,
            candidates,
            tuple(snapshots),
            seed,
            seconds=seconds,
            answer=answer,
            view=view,
        )
        (result,) = self.complete_tasks([task], options)
        return replace(result, array_shape=image.shape) if isinstance(image, np.ndarray) else result

    def for_model(self, options: CompletionOptions) -> CompletionOptions:
        """Return the options with their method set for this model."""
        return completion.for_model(self._networks, options)

    def complete_tasks(
        self,
        tasks: Iterable[Task],
        options: CompletionOptions,
        *,
        on_preview: Callable[[Preview], None] = lambda preview: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Completion]:
        """Complete many images, ``options.batch`` at a time; see `pixmend.completion.complete`."""
        return completion.complete(
            self._networks,
            tasks,
            options,
            on_preview=on_preview,
            should_stop=should_stop,
        )

    def sample(self, count: int = 64, *, seed: int = 0) -> Pixels:
        """Draw images from the model, uint8 [count, size, size, C]."""
        draws = models.sample_latents(self.settings, count, generator_for(seed, "sample"))
        return self.draw(draws.numpy())

    def walk(self, frames: int = 120, *, corners: int = 8, seed: int = 0) -> Pixels:
        """Walk through latent space along great circles between ``corners`` samples and back, uint8 [frames, size, size, C].

        Great circles (White 2016) keep |z| where the prior has its mass.
        """
        draws = models.sample_latents(self.settings, corners, generator_for(seed, "walk")).numpy()
        shares = np.linspace(0, corners, frames, endpoint=False)
        path = [
            _great_circle(draws[int(at)], draws[(int(at) + 1) % corners], at % 1) for at in shares
        ]
        return self.draw(np.stack(path).astype(np.float32))

    def draw(self, latents: np.ndarray[Any, np.dtype[np.float32]]) -> Pixels:
        """Return G(z) of latents [N, latent_dim], uint8 [N, size, size, C]."""
        import torch

        device = next(self._networks.generator.parameters()).device
        with torch.no_grad():
            parts = torch.split(torch.from_numpy(np.ascontiguousarray(latents)).to(device), 256)
            return np.concatenate([to_pixels(self._networks.generator(part)) for part in parts])


def load(model: str | Path = "characters", *, device: str = "auto") -> Model:
    """Load a model file, a run directory's model, or a bundled model by name.

    Raises
    ------
    ModelFileError
        The file is missing or damaged; the message says which and why.
    """
    return Model(models.load_model(model), device)


def complete(model: str | Path, image: Any, mask: Any = "center") -> Completion:  # noqa: ANN401
    """Complete one image with a model named as in `load`; `Model.complete` has all options."""
    return load(model).complete(image, mask)


def evaluate(
    model: str | Path,
    images: str | Path | StorePath | Sequence[Path | StorePath],
    out: str | Path,
    spec: EvaluationSpec | None = None,
    *,
    train_data: str | Path | None = None,
    names: Sequence[str] | None = None,
    other: str | Path | None = None,
    completions: Mapping[str, Path] | None = None,
    device: str = "auto",
    engine: EvaluationEngine | None = None,
    on_images: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[Step], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluate a model on unseen images, against baselines, into the folder ``out``.

    Parameters
    ----------
    images
        A record folder, an image folder, or image files, local or by URL; ``names`` are theirs.
    spec
        Masks, methods, number of images and seed.
    train_data
        The records that the model was trained on.
    other
        A second model, to compare with the first.
    completions, engine, on_images, on_step, should_stop
        See `pixmend.evaluation.evaluate`; for an engine, `pixmend.cluster`.

    Raises
    ------
    InputError, SettingsError, RunError, OutputError
        See there.
    """
    under_test = [_model_under_test(each, device) for each in (model, other) if each is not None]
    return evaluation.evaluate(
        under_test,
        _source(images, names),
        StorePath.of(out).on_this_machine("an evaluation"),
        spec,
        train=_training(train_data, under_test[0].model),
        completions=completions,
        engine=engine,
        on_images=on_images,
        on_step=on_step,
        should_stop=should_stop,
    )


def write_tasks(
    model: str | Path,
    images: str | Path | StorePath | Sequence[Path | StorePath],
    folder: str | Path,
    spec: EvaluationSpec | None = None,
    *,
    train_data: str | Path | None = None,
    names: Sequence[str] | None = None,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the images with holes of the same call of `evaluate` for another tool; return how many.

    Raises
    ------
    InputError, SettingsError, OutputError
        See `evaluate`.
    """
    spec = spec or EvaluationSpec()
    networks = load(model).networks
    held_out = evaluation.choose_held_out(
        _source(images, names),
        networks,
        _training(train_data, networks),
        count=spec.count,
        seed=spec.seed,
        on_progress=on_images,
    )
    return evaluation.write_tasks(
        StorePath.of(folder).on_this_machine("a set of tasks"), held_out, spec
    )


def _training(train_data: str | Path | None, networks: models.DCGAN) -> TrainingImages | None:
    return None if train_data is None else evaluation.open_training(Records(train_data), networks)


def _model_under_test(model: str | Path, device: str) -> ModelUnderTest:
    digest = sha256_of(models.find_model(model))
    return ModelUnderTest(load(model, device=device).networks, str(model), digest)


def _source(
    images: str | Path | StorePath | Sequence[Path | StorePath], names: Sequence[str] | None
) -> EvaluationImages:
    if isinstance(images, str | Path | StorePath):
        place = StorePath.of(images)
        if (place / "manifest.json").is_file():
            return EvaluationImages.of_records(Records(place))
        images = list(images_at(place))
    return EvaluationImages.of_files(images, names or [str(path) for path in images])


def pack(
    images: str | Path | StorePath,
    out: str | Path | StorePath,
    *,
    size: int = 64,
    channels: Channels | None = None,
    fit: Fit = "crop",
    background: str = "white",
    workers: int | None = None,
    on_progress: Callable[[PackProgress], None] | None = None,
) -> Manifest:
    """Pack a folder of images (or a zip, idx or TFRecord source) into record shards.

    Parameters
    ----------
    size
        Side of the packed images, in pixels.
    channels
        ``L``, ``RGB`` or ``RGBA``; default: what the images need.
    fit
        ``crop``, ``pad`` or ``stretch``: how an image is made square.
    background
        The colour behind transparent pixels and around padded images.
    workers
        Number of processes; default: one a core.

    Raises
    ------
    InputError, OutputError, SettingsError
        See `pixmend.records.pack`.
    """
    chosen = PackSettings(size=size, channels=channels, fit=fit, background=background)
    return records.pack(images, out, chosen, workers=workers, on_progress=on_progress)


def train(
    data: str | Path | StorePath,
    run: str | Path,
    *,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Model:
    """Train on a record or image folder into a run directory, or resume it, and return the model.

    Processes started by torchrun train together; each calls ``on_progress`` and returns the model, from a run directory that
    all must see.

    Parameters
    ----------
    recipe
        Name of a recipe, or a TOML file.
    settings
        `TrainSettings` by key; they override the recipe. With ``minutes``, the network is chosen to fit machine, images and time
        unless set here.
    """
    with open_group() as group:
        wanted, source = plan_training(recipe, settings or {}), StorePath.of(data)
        folder = StorePath.of(run).on_this_machine("a run")
        packed = prepare_records(source, folder, wanted, group=group)
        resolved = resolve_training(wanted, packed, folder, group=group)
        for progress in training.train(
            packed, folder, resolved, data_name=str(source), group=group
        ):
            on_progress(progress)
    return load(run)


def _great_circle(
    start: np.ndarray[Any, Any], end: np.ndarray[Any, Any], share: float
) -> np.ndarray[Any, Any]:
    cosine = np.dot(start, end) / (np.linalg.norm(start) * np.linalg.norm(end))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if angle < 1e-4:
        return start
    between = np.sin((1 - share) * angle) * start + np.sin(share * angle) * end
    return np.asarray(between / np.sin(angle))
