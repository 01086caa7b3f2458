"""Model files and checkpoints: weights as safetensors, settings and card as JSON in the header.

The model file is all that training and completion share. It contains no code, so opening one runs
none, and a digest over all weights detects damage.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pixmend.errors import ModelFileError, OutputError
from pixmend.images import channel_count
from pixmend.model_header import (
    FORMATS,
    header_digest,
    local_model,
    model_in,
    opened,
    parse_header,
    read_header,
)
from pixmend.models.calibration import Calibration
from pixmend.models.dcgan import Discriminator, Generator
from pixmend.models.inpainter import Inpainter
from pixmend.models.model import DCGAN
from pixmend.models.retrieval import Retrieval
from pixmend.models.settings import DCGANSettings
from pixmend.storage import StorePath, atomic_write, local_copy, split_pin

_WITH_INPAINTER = 2  # the first format of models with today's inpainter
_MAX_NAMES = 80  # characters of unknown names in a message


def find_model(model: str | Path) -> Path:
    """Return the file of a model: a file, a run directory, a URL of one or a bundled model's name.

    See `local_model`. A URL may pin its file with ``#sha256:HEX``, and its file is copied: see
    `pixmend.storage.local_copy`. ModelFileError if there is none; InputError or StoreError if a
    URL cannot be read.
    """
    url, pin = split_pin(str(model))
    place = StorePath.of(url if pin else model)
    if pin or place.local is None:
        return local_copy(place, pin, locate=model_in, check=partial(_check_copy, place))
    path = local_model(model)
    assert path is not None
    return path


def _check_copy(url: StorePath, copy: Path) -> None:
    """Raise a ModelFileError, which names the URL, if a copy is no intact file of pixmend."""
    try:
        read_tensors(copy, kind=read_header(copy)["kind"])
    except ModelFileError as error:
        raise type(error)(str(error).replace(str(copy), str(url), 1)) from None


def load_model(model: str | Path) -> DCGAN:
    """Load a model in evaluation mode; see `find_model` and `read_tensors`."""
    path = find_model(model)
    tensors, header = read_tensors(path, kind="model")
    _check_version(path, header)
    try:
        settings = DCGANSettings.model_validate(header["settings"])
        with torch.device("meta"):  # allocates nothing: a small file may declare huge networks
            _check_shapes(_networks(settings), tensors)
        networks = _networks(settings)
        for part, network in networks.items():
            names = [name for name in tensors if name.startswith(f"{part}.")]
            network.load_state_dict({name.partition(".")[2]: tensors[name] for name in names})
        retrieval = None
        if settings.retrieval_images:
            count, channels = header["retrieval_count"], channel_count(settings.channels)
            names = sorted(name for name in tensors if name.partition(".")[0] == "retrieval")
            pngs = [tensors[name] for name in names]
            retrieval = Retrieval.decode(pngs, count=count, channels=channels, side=settings.size)
        card = dict(header.get("card", {}))
        floats = (value for value in tensors.values() if value.is_floating_point())
        if not all(bool(torch.isfinite(value).all()) for value in floats):
            raise ValueError("some weights are NaN or infinite")
        for network in networks.values():
            network.eval().requires_grad_(False)
        if calibration := Calibration.of(card):
            image = torch.zeros(1, channel_count(settings.channels), settings.size, settings.size)
            calibration.distances(networks["discriminator"], image)
    # Whoever alters a file can correct its digests, so its content may be anything.
    except (KeyError, ValueError, TypeError, RuntimeError, ModelFileError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelFileError(
            f"{path}: its settings and weights do not fit together ({reason}); export it again"
        ) from error
    return DCGAN(settings, **networks, card=card, retrieval=retrieval)


def save_model(model: DCGAN, path: Path) -> None:
    """Write a model file atomically; weights that float16 holds exactly take half the space."""
    networks = {
        "generator": model.generator,
        "discriminator": model.discriminator,
        "inpainter": model.inpainter,
    }
    tensors = {
        f"{part}.{name}": _narrow(value)
        for part, network in networks.items()
        if network is not None
        for name, value in network.state_dict().items()
    }
    header: dict[str, Any] = {"settings": model.settings.model_dump(), "card": model.card}
    if model.retrieval is not None:
        for number, png in enumerate(model.retrieval.encoded):
            tensors[f"retrieval.{number}" if number else "retrieval"] = png
        header["retrieval_count"] = len(model.retrieval)
    write_tensors(path, tensors, kind="model", header=header)


def _narrow(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or not torch.equal(tensor.half().float(), tensor):
        return tensor
    return tensor.half()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, kind: str, header: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON header atomically; the file is read back first.

    OutputError if it cannot be written, or reads back damaged.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    facts = {**header, "format": FORMATS[kind], "kind": kind, "digest": _digest(tensors)}
    facts["header_digest"] = header_digest(facts)
    content = save(tensors, {"pixmend": json.dumps(facts, sort_keys=True)})

    def verify(written: Path) -> None:
        try:
            read_tensors(written, kind=kind)
        except ModelFileError as error:
            raise OutputError(
                f"{path}: reads back damaged ({error}); the disk may be failing"
            ) from error

    with atomic_write(path, verify=verify) as file:
        file.write(content)


def read_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and header of `write_tensors`.

    ModelFileError if the file is missing, truncated, altered, of another kind or of another
    version.
    """
    with opened(path) as file:
        header = parse_header(path, file, kind)
        try:
            # Not by its path, where an export may have put the next model since.
            with safe_open(f"/dev/fd/{file.fileno()}", framework="pt") as content:
                names = content.keys()
                tensors = {name: content.get_tensor(name) for name in names}
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFileError(f"{path}: truncated or damaged; get the file again") from error
    if _digest(tensors) != header.get("digest"):
        raise ModelFileError(
            f"{path}: its weights do not match their digest: altered or damaged; get the file again"
        )
    return tensors, header


def _check_version(path: Path, header: Mapping[str, Any]) -> None:
    """Refuse a model of another version, which no new export would mend."""
    settings = header.get("settings")
    values = settings if isinstance(settings, dict) else {}
    unknown = sorted(values.keys() - DCGANSettings.model_fields.keys())
    problem = ""
    if unknown:
        problem = f"unknown settings: {', '.join(map(ascii, unknown))[:_MAX_NAMES]}"
    elif header["format"] < _WITH_INPAINTER and values.get("inpainter_filters"):
        problem = "its inpainter sees neighbours as they are"
    if problem:
        raise ModelFileError(
            f"{path}: a model of another version of pixmend ({problem}); "
            "use that version, or train it again"
        )


def _networks(settings: DCGANSettings) -> dict[str, Any]:
    """Return the networks by the prefix of their tensors, which is also their name in `DCGAN`."""
    networks: dict[str, nn.Module] = {
        "generator": Generator(settings),
        "discriminator": Discriminator(settings),
    }
    if settings.inpainter_filters:
        networks["inpainter"] = Inpainter(settings)
    return networks


def _check_shapes(networks: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Raise a ModelFileError if a weight of the networks is missing or of another shape."""
    for part, network in networks.items():
        for name, weight in network.state_dict().items():
            tensor = tensors.get(f"{part}.{name}")
            if tensor is None or tensor.shape != weight.shape:
                actual = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
                raise ModelFileError(
                    f"{part}.{name} is {actual} and should be {list(weight.shape)}"
                )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
