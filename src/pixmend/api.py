"""The library's verbs: what `import pixmend` offers, and what the command line calls.

pack(folder, records)  ->  train(records, run)  ->  load(run).complete(image, mask)
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pixmend import completion, evaluation, models, records, training
from pixmend.completion import Answer, Blend, Completion, CompletionOptions, Preview, Task, View
from pixmend.completion.call import complete_images
from pixmend.distributed import choose_device, open_group
from pixmend.errors import SettingsError
from pixmend.images import Channels, Fit, Picture, grid, images_at, to_pixels
from pixmend.records import Manifest, PackProgress, PackSettings, Records
from pixmend.rng import check_seed, generator_for, is_whole
from pixmend.storage import StorePath, sha256_of

__all__ = [
    "ImageBatch",
    "Model",
    "evaluate",
    "load",
    "pack",
    "train",
    "write_tasks",
]


_RETRIEVAL_BYTES = 2**32


class Model:
    """A trained model, ready to complete and to sample; `load` makes one."""

    def __init__(self, networks: models.DCGAN, device: str = "auto") -> None:
        if isinstance(networks, str | Path):
            raise SettingsError(f'Model: made by a name or path with pixmend.load("{networks}")')
        chosen = choose_device(device)
        for network in filter(
            None, (networks.generator, networks.discriminator, networks.inpainter)
        ):
            # In training mode an image's answer would depend on its batch mates.
            network.to(chosen).eval().requires_grad_(False)
        memory = networks.retrieval
        if memory is not None:
            networks = replace(networks, retrieval=models.Retrieval(memory.images.to(chosen)))
        self.networks, self._device = networks, chosen

    def __repr__(self) -> str:
        settings = self.settings
        return f"<Model of {settings.size} px {settings.channels} images on {self._device}>"

    @property
    def settings(self) -> models.DCGANSettings:
        """The settings of the networks."""
        return self.networks.settings

    @property
    def card(self) -> dict[str, Any]:
        """The model card: data, steps, figures."""
        return self.networks.card

    def complete(
        self,
        image: Any,  # noqa: ANN401 - a path, PIL image, array or tensor, or several
        mask: Any = "auto",  # noqa: ANN401 - a SPEC, path, PIL image, array or tensor, or several
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
        range: tuple[float, float] | None = None,
    ) -> Any:  # noqa: ANN401 - as documented
        """Complete one image, or several.

        Parameters
        ----------
        image
            A path, a PIL image, an array [H, W] or [H, W, 1, 3 or 4] of any size (uint8, floats in
            [0, 1], or grey uint16), or a tensor [H, W] or [C, H, W] of such values. Several: a list
            of these, an array [N, H, W, C] or a tensor [N, C, H, W].
        mask
            A SPEC such as ``"center:0.5"`` (see `pixmend.masks`; ``auto`` takes NaN or transparent
            pixels), a path, a PIL image, an array or a tensor; white (>= 128), True, or 1 of 0 and
            1 = hole. Several images share one, or have a list or [N, H, W] of masks.
        method, steps, blend
            A name of `pixmend.completion.METHODS`, and its number of steps and its blend
            (``paste``, ``feather`` or ``poisson``), if not its own.
        candidates, snapshots, seed, seconds, answer, view
            See `pixmend.completion.CompletionOptions`; equal calls give equal answers.
        range
            Values of black and white, if not the ends of the type, such as ``(-1000, 3000)``.

        Returns
        -------
        Completion or Completions
            ``.best`` has the type of ``image``; known pixels are bit-identical. An ImageError,
            MaskError or SettingsError says why an image, a mask or an option cannot be used.
        """
        chosen = completion.find_method(method, steps=steps, blend=blend)
        options = CompletionOptions(
            chosen, candidates, tuple(snapshots), seed, seconds=seconds, answer=answer, view=view
        )
        return complete_images(
            lambda tasks: self.complete_tasks(tasks, options), image, mask, seed, range
        )

    def with_retrieval(
        self,
        data: str | Path | StorePath,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> "Model":
        """Return the model with the records ``data`` as its retrieval images, in place of its file's.

        More images hold nearer ones. Reports (decoded, total). SettingsError: the model has no retrieval, or its
        images are of another size or colour; records over 4 GiB decoded are refused.
        """
        bank, settings = Records(data), self.settings
        if self.networks.retrieval is None:
            raise SettingsError(f"retrieval {data}: the model was trained without retrieval images")
        own, given = (settings.size, settings.channels), (bank.size, bank.channels)
        if own != given:
            raise SettingsError(
                f"retrieval {data}: records of {given[0]} px {given[1]}, the model has {own[0]} px {own[1]}; "
                f"pack the images again (pixmend pack --size {own[0]} --channels {own[1]})"
            )
        import torch

        images = bank.load_all(_RETRIEVAL_BYTES, on_progress=on_progress)
        if images is None:
            raise SettingsError(f"retrieval {data}: over 4 GiB decoded; pack fewer images")
        memory = models.Retrieval(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
        return Model(replace(self.networks, retrieval=memory), str(self._device))

    def for_model(self, options: CompletionOptions) -> CompletionOptions:
        """Return the options with their method set for this model."""
        return completion.for_model(self.networks, options)

    def complete_tasks(
        self,
        tasks: Iterable[Task],
        options: CompletionOptions,
        *,
        on_preview: Callable[[Preview], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[Completion]:
        """Complete many images, ``options.batch`` at a time; see `pixmend.completion.complete`."""
        return completion.complete(
            self.networks,
            tasks,
            options,
            on_preview=on_preview or (lambda preview: None),
            should_stop=should_stop or (lambda: False),
        )

    def sample(self, count: int = 64, *, seed: int = 0) -> "ImageBatch":
        """Draw images from the model, uint8 [count, size, size, C]."""
        check_seed(seed)
        _check_counts(count=count)
        draws = models.sample_latents(self.settings, count, generator_for(seed, "sample"))
        return self.draw(draws.numpy())

    def walk(self, frames: int = 120, *, corners: int = 8, seed: int = 0) -> "ImageBatch":
        """Walk around ``corners`` samples on great circles, uint8 [frames, size, size, C].

        Great circles (White 2016) keep the norm of z where the prior has its mass.
        """
        check_seed(seed)
        _check_counts(frames=frames, corners=corners)
        draws = models.sample_latents(self.settings, corners, generator_for(seed, "walk")).numpy()
        places = np.linspace(0, corners, frames, endpoint=False)
        starts = draws[places.astype(int)]
        ends, share = draws[(places.astype(int) + 1) % corners], (places % 1)[:, None]
        cosine = (starts * ends).sum(1) / np.linalg.norm(starts, axis=1)
        cosine = (cosine / np.linalg.norm(ends, axis=1))[:, None]
        angle = np.arccos(np.clip(cosine, -1, 1)).clip(1e-4)
        path = starts * np.sin((1 - share) * angle) + ends * np.sin(share * angle)
        return self.draw((path / np.sin(angle)).astype(np.float32))

    def draw(self, latents: np.ndarray[Any, np.dtype[np.float32]]) -> "ImageBatch":
        """Return G(z) of latents [N, latent_dim], uint8 [N, size, size, C]."""
        import torch

        with torch.no_grad():
            parts = torch.split(torch.from_numpy(np.ascontiguousarray(latents)), 256)
            drawn = [to_pixels(self.networks.generator(part.to(self._device))) for part in parts]
        return np.concatenate(drawn).view(ImageBatch)


class ImageBatch(np.ndarray[Any, np.dtype[np.uint8]]):
    """Images as an array, uint8 [N, H, W, C], that shows itself as a grid."""

    def show(self) -> None:
        """Open the grid in the system's viewer."""
        Picture(grid(np.asarray(self)), "RGB").to_pil().show()


def load(model: str | Path = "characters", *, device: str = "auto") -> Model:
    """Load a model file, a run directory's model, either by URL, or a bundled model by name.

    Raise a ModelFileError that says why if the file is missing or damaged, and an InputError or
    StoreError if a URL cannot be read. A URL may pin its file: ``https://...#sha256:HEX``.
    """
    return Model(models.load_model(model), device)


def evaluate(
    model: str | Path,
    images: str | Path | StorePath | Sequence[Path | StorePath],
    out: str | Path,
    spec: evaluation.EvaluationSpec | None = None,
    *,
    train_data: str | Path | None = None,
    names: Sequence[str] | None = None,
    other: str | Path | None = None,
    completions: Mapping[str, Path] | None = None,
    device: str = "auto",
    engine: evaluation.EvaluationEngine | None = None,
    on_images: Callable[[int, int], None] | None = None,
    on_step: Callable[[evaluation.Step], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> evaluation.Evaluation:
    """Evaluate a model on unseen images, against baselines, into the folder ``out``.

    ``images`` are a record folder, an image folder, or image files, local or by URL, with their
    ``names``; ``train_data`` are the records that the model was trained on, ``other`` a second
    model to compare. See `pixmend.evaluation.evaluate` for the rest, and for the errors raised.
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
        on_images=on_images or (lambda done, total: None),
        on_step=on_step or (lambda step: None),
        should_stop=should_stop or (lambda: False),
    )


def write_tasks(
    model: str | Path,
    images: str | Path | StorePath | Sequence[Path | StorePath],
    folder: str | Path,
    spec: evaluation.EvaluationSpec | None = None,
    *,
    train_data: str | Path | None = None,
    names: Sequence[str] | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> int:
    """Write the images with holes of the same `evaluate` for another tool; return how many."""
    spec = spec or evaluation.EvaluationSpec()
    networks = load(model).networks
    held_out = evaluation.choose_held_out(
        _source(images, names),
        networks,
        _training(train_data, networks),
        count=spec.count,
        seed=spec.seed,
        on_progress=on_images or (lambda done, total: None),
    )
    return evaluation.write_tasks(
        StorePath.of(folder).on_this_machine("a set of tasks"), held_out, spec
    )


def _training(
    train_data: str | Path | None, networks: models.DCGAN
) -> evaluation.TrainingImages | None:
    return None if train_data is None else evaluation.open_training(Records(train_data), networks)


def _model_under_test(model: str | Path, device: str) -> evaluation.ModelUnderTest:
    file = models.find_model(model)
    name = str(StorePath.of(model))  # without a URL's secrets
    return evaluation.ModelUnderTest(load(file, device=device).networks, name, sha256_of(file))


def _source(
    images: str | Path | StorePath | Sequence[Path | StorePath], names: Sequence[str] | None
) -> evaluation.EvaluationImages:
    if isinstance(images, str | Path | StorePath):
        place = StorePath.of(images)
        if (place / "manifest.json").is_file():
            return evaluation.EvaluationImages.of_records(Records(place))
        images = list(images_at(place))
    return evaluation.EvaluationImages.of_files(images, names or [str(path) for path in images])


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

    Images become ``size`` x ``size`` pixels of ``channels`` (``L``, ``RGB``, ``RGBA``; default: as
    they need) by ``fit`` (``crop``, ``pad``, ``stretch``), on ``background`` where transparent or
    padded. ``workers`` processes, by default one a core. See `pixmend.records.pack` for errors.
    """
    chosen = PackSettings(size=size, channels=channels, fit=fit, background=background)
    return records.pack(images, out, chosen, workers=workers, on_progress=on_progress)


def train(
    data: str | Path | StorePath,
    run: str | Path,
    *,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    minutes: float | None = None,
    progress: bool = False,
    on_progress: Callable[[training.Progress], None] | None = None,
) -> Model:
    """Train on a record or image folder into a run directory, or resume it, and return the model.

    ``settings`` are `TrainSettings` by key; they override the ``recipe``, a name or a TOML file.
    With ``minutes``, the network is chosen to fit machine, images and time unless set there.
    ``progress`` writes a line on stderr at each percent. Processes started by torchrun train
    together; each calls ``on_progress`` and returns the model, from a directory that all must see.
    """
    timed = {} if minutes is None else {"minutes": minutes}
    plan = training.plan_training(recipe, {**(settings or {}), **timed})
    with open_group() as group:
        folder = StorePath.of(run).on_this_machine("a run")
        packed = training.prepare_records(StorePath.of(data), folder, plan, group=group)
        resolved = training.resolve_training(plan, packed, folder, group=group)
        percent = -1
        for now in training.train(
            packed, folder, resolved, data_name=str(StorePath.of(data)), group=group
        ):
            if progress and group.is_main and int(100 * now.done) != percent:
                percent = int(100 * now.done)
                sys.stderr.write(f"training: {percent} %, step {now.step:,}\n")
            if on_progress is not None:
                on_progress(now)
    return load(run)


def _check_counts(**counts: object) -> None:
    for name, count in counts.items():
        if not is_whole(count, 1):
            raise SettingsError(f"{name} = {count}: needs a whole number of at least 1")
