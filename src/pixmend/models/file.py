"""The model file: weights as safetensors, settings and card as JSON in its header.

It is the only thing that training and completion share. It holds no code, so opening one can run none, and a digest over
all weights tells an altered or damaged file from a good one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from pixmend.errors import ModelFileError, OutputError, VersionError
from pixmend.images import channel_count
from pixmend.models.dcgan import DCGANSettings, Discriminator, Generator
from pixmend.models.encoder import Encoder
from pixmend.models.retrieval import Retrieval
from pixmend.storage import atomic_write, parse_json

# What is written, by kind; raised when an older program could not read a newer file. Every format up to it is read.
# Checkpoints: 1 without, 2 with the counts of skipped steps and rollbacks.
FORMATS = {"model": 1, "checkpoint": 2}
BUNDLED = Path(__file__).parent.parent / "bundled"
_PARTS = ("generator", "discriminator", "encoder")
_MAX_HEADER = 8 * 2**20
_SHOWN = 80  # characters of unknown names in a message


@dataclass(frozen=True)
class DCGAN:
    """Trained networks and what is known of them.

    Attributes
    ----------
    settings
        What the networks look like.
    generator, discriminator
        On the CPU, in evaluation mode with frozen batch statistics.
    card
        Facts for people: what it was trained on, for how long, its figures. JSON values only.
    encoder
        From masked images to z, where `settings.encoder` is not "off".
    memory
        Training images for the encoder to look at, where `settings.retrieval_images` is not 0.
    """

    settings: DCGANSettings
    generator: Generator
    discriminator: Discriminator
    card: dict[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = None
    retrieval: Retrieval | None = None


def find_model(model: str | Path) -> Path:
    """Return the file of a model given as a file, as a run directory, or by the name of a bundled one.

    A run directory stands for its best model by the monitor, and where that is not kept, for its last.

    Raises
    ------
    ModelFileError
        There is no such model; the message names the bundled ones.
    """
    path = Path(model)
    bundled = BUNDLED / f"{model}.safetensors"
    if path.is_file():
        return path
    if path.is_dir():
        for name in ("best.safetensors", "model.safetensors"):
            if (path / name).is_file():
                return path / name
        raise ModelFileError(
            f"{path}: holds no model.safetensors yet; train a model there first (pixmend train)"
        )
    if len(path.parts) == 1 and bundled.is_file():
        return bundled
    names = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.safetensors"))) or "none"
    raise ModelFileError(
        f"{model}: no such model file or run directory, nor a bundled model (bundled: {names})"
    )


def load_model(model: str | Path) -> DCGAN:
    """Load a model in evaluation mode; see `find_model` for what ``model`` may be.

    Raises
    ------
    ModelFileError
        Missing, truncated, altered, of another kind or of another version.
    """
    path = find_model(model)
    tensors, header = read_tensors(path, kind="model")
    _check_version(path, header)
    try:
        settings = DCGANSettings.model_validate(header["settings"])
        with torch.device("meta"):  # takes no memory: a few bytes of settings can ask for gigabytes
            _check_held(_networks(settings), tensors)
        generator, discriminator, encoder = networks = _networks(settings)
        for part, network in zip(_PARTS, networks, strict=True):
            if network is not None:
                network.load_state_dict(_part(tensors, f"{part}."))
        memory = (
            _memory(tensors["retrieval"], settings, header) if settings.retrieval_images else None
        )
        card = dict(header.get("card", {}))
    # A digest can be put right by whoever alters a file: what it covers is as strange as the rest.
    except (KeyError, ValueError, TypeError, RuntimeError, ModelFileError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelFileError(
            f"{path}: its settings and weights do not fit together ({reason}); export it again"
        ) from error
    for loaded in filter(None, networks):
        loaded.eval().requires_grad_(False)
    return DCGAN(settings, generator, discriminator, card, encoder, memory)


def save_model(model: DCGAN, path: Path) -> None:
    """Write a model file atomically."""
    networks = {
        "generator": model.generator,
        "discriminator": model.discriminator,
        "encoder": model.encoder,
    }
    tensors: dict[str, Tensor] = {}
    for prefix, network in networks.items():
        if network is not None:
            held = network.state_dict().items()
            tensors |= {f"{prefix}.{name}": value for name, value in held}
    header: dict[str, Any] = {"settings": model.settings.model_dump(), "card": model.card}
    if model.retrieval is not None:
        tensors["retrieval"] = model.retrieval.encode()
        header["retrieval_count"] = len(model.retrieval)
    write_tensors(path, tensors, kind="model", header=header)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, kind: str, header: Mapping[str, Any]
) -> None:
    """Write named tensors and a JSON header atomically, read back and checked before the old file gives way.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    facts = {**header, "format": FORMATS[kind], "kind": kind, "digest": _digest(held)}
    facts["header_digest"] = _header_digest(facts)
    content = save(held, {"pixmend": json.dumps(facts, sort_keys=True)})

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
    """Read what `write_tensors` wrote.

    Raises
    ------
    ModelFileError
        Missing, truncated, altered, of another kind or of another version.
    """
    header = read_header(path)
    if header.get("kind") != kind:
        raise ModelFileError(f"{path}: holds a {header.get('kind')}, not a {kind}")
    try:
        tensors = _weights_in(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path}: truncated or damaged; get the file again") from error
    if _digest(tensors) != header.get("digest"):
        raise ModelFileError(
            f"{path}: its weights do not match their digest: altered or damaged; get the file again"
        )
    return tensors, header


def read_header(path: Path) -> dict[str, Any]:
    """Return the JSON header of a model file or checkpoint, without reading its weights.

    Raises
    ------
    ModelFileError
        Missing, not a pixmend file, or (a VersionError) of a newer version.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, path.stat().st_size):
                raise ModelFileError(f"{path}: not a pixmend model file, or a truncated one")
            metadata = parse_json(file.read(length)).get("__metadata__", {})
        header = parse_json(metadata["pixmend"])
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelFileError(f"{path}: not a pixmend model file, or a truncated one") from error
    if not isinstance(header, dict) or str(header.get("kind")) not in FORMATS:
        raise ModelFileError(f"{path}: not a pixmend model file")
    newest = FORMATS[header["kind"]]
    if header.get("format") not in range(1, newest + 1):
        raise VersionError(
            f"{path}: of format {header.get('format')}; this pixmend reads formats up to {newest}: use the version that wrote it"
        )
    # Older files have none.
    if header.get("header_digest", wanted := _header_digest(header)) != wanted:
        raise ModelFileError(
            f"{path}: its header does not match its digest: altered or damaged; get the file again"
        )
    return header


def _weights_in(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a file."""
    if not os.fsencode(path).isascii():
        return load(path.read_bytes())  # safe_open takes no name that is not UTF-8
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _check_version(path: Path, header: Mapping[str, Any]) -> None:
    """Refuse a model whose settings this version does not know: it is not damaged, and no new export helps.

    Raises
    ------
    ModelFileError
        It has such settings; the message names them.
    """
    settings = header.get("settings")
    values = settings if isinstance(settings, dict) else {}
    unknown = sorted(values.keys() - DCGANSettings.model_fields.keys())
    if unknown:
        names = ", ".join(map(ascii, unknown))[:_SHOWN]
        raise ModelFileError(
            f"{path}: a model of another version of pixmend (unknown settings: {names}); use that version, or train it again"
        )


def _networks(settings: DCGANSettings) -> tuple[Generator, Discriminator, Encoder | None]:
    encoder = Encoder(settings) if settings.encoder != "off" else None
    return Generator(settings), Discriminator(settings), encoder


def _check_held(
    networks: tuple[Generator, Discriminator, Encoder | None], tensors: Mapping[str, Tensor]
) -> None:
    """Check that a file holds the weights of its networks, before these take memory.

    Raises
    ------
    ModelFileError
        One is missing or of another shape.
    """
    for part, network in zip(_PARTS, networks, strict=True):
        for name, wanted in network.state_dict().items() if network is not None else ():
            held = tensors.get(f"{part}.{name}")
            if held is None or held.shape != wanted.shape:
                found = "missing" if held is None else f"of shape {list(held.shape)}"
                raise ModelFileError(f"{part}.{name} is {found} and should be {list(wanted.shape)}")


def _memory(png: Tensor, settings: DCGANSettings, header: Mapping[str, Any]) -> Retrieval:
    count, channels = header["retrieval_count"], channel_count(settings.channels)
    return Retrieval.decode(png, count=count, channels=channels, side=settings.size)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _header_digest(header: Mapping[str, Any]) -> str:
    """SHA-256 over all of a header but this."""
    facts = {key: value for key, value in header.items() if key != "header_digest"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
