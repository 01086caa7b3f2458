"""The multipart form of a completion request: its fields, its limits, and the task it describes."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pixmend.completion import CompletionOptions, Task, find_method, open_mask, windows_around
from pixmend.errors import InputError, MaskError, SettingsError
from pixmend.images import Picture, decode_image, encode_png
from pixmend.masks import SPECS, Mask, is_spec, make_mask
from pixmend.serve.catalogue import Catalogue, ServedModel
from pixmend.serve.security import Limits, Problem

_FILES = ("image", "mask")
_MAX_HOLES = 10_000  # more are not grouped into windows to count them
_COPIES = 4  # of an answer in memory: decoded, encoded, in base64, in JSON
_MAX_STROKES = 0.8  # a larger share takes strokes without end


class FormFields(BaseModel):
    """The fields of the form that are not files."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("", max_length=200, description="Model id; the first model by default.")
    mask_spec: str = Field(
        "",
        max_length=100,
        description="Mask shape, such as center:0.5, or alpha, color:#ff00ff, nan or auto, "
        "if no mask is sent.",
    )
    method: str = Field(
        "default", max_length=40, description="instant, default, best, or a published method."
    )
    steps: int | None = Field(None, ge=1, description="Search steps.")
    seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Time budget; such a search runs alone."
    )
    candidates: int = Field(1, ge=1, description="Distinct answers, best first.")
    seed: int = Field(0, ge=0, lt=2**53, description="Random seed.")
    answer: Literal["sharp", "average"] = "sharp"
    blend: Literal["paste", "feather", "poisson"] | None = None
    view: Literal["whole", "window"] = "whole"
    full: bool = Field(
        False, description="Also return latents, loss history and uncertainty values."
    )


@dataclass(frozen=True)
class CompletionRequest:
    """A validated request.

    ``suffix`` is that of the uploaded file, ``memory`` the bytes that request and answer may take.
    """

    model: ServedModel
    task: Task
    options: CompletionOptions
    full: bool
    suffix: str
    memory: int


def form_schema() -> dict[str, Any]:
    """Return the OpenAPI request body of the form."""
    binary = {"type": "string", "format": "binary"}
    properties = {
        "image": {**binary, "description": "Image file."},
        "mask": {**binary, "description": "Mask image of the same size, white = hole."},
        **FormFields.model_json_schema()["properties"],
    }
    form = {
        "schema": {"type": "object", "properties": properties, "required": ["image"]},
        "example": {"mask_spec": "center", "method": "default", "candidates": 4, "seed": 0},
    }
    return {"required": True, "content": {"multipart/form-data": form}}


class _InMemoryParser(MultiPartParser):
    """Keeps uploads in memory, and closes the file of a part that never ends."""

    spool_max_size = 2**40  # uploads never reach the disk; `Limits.body` bounds them
    is_part_open = False

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        self.is_part_open = True

    def on_part_end(self) -> None:
        super().on_part_end()
        self.is_part_open = False

    async def parse(self) -> FormData:
        form = await super().parse()
        if self.is_part_open:
            self.on_part_end()
            _, value = self.items[-1]
            if isinstance(value, UploadFile):
                await value.close()
        return form


async def read_form(request: Request) -> FormData:
    """Read a multipart body into memory; another kind of body is `Problem` 415, half a form 400."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Problem(415, "form", "Send a form (multipart/form-data) with the field image.")
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=4, max_fields=32, max_part_size=4096
    )
    try:
        return await parser.parse()
    except ClientDisconnect as error:
        raise Problem(400, "form", "The form is incomplete; send it again.") from error
    except (MultiPartException, FormParserError, ValueError, LookupError) as error:
        raise Problem(400, "form", "The form is malformed; send it again.") from error


def parse_form(form: FormData, catalogue: Catalogue, limits: Limits) -> CompletionRequest:
    """Validate a form, decode its images and cost the work: too slow for the event loop.

    An unknown model is `Problem` 404, an unusable field 422.
    """
    files, fields = _fields(form)
    model = catalogue.find(fields.model)
    path = PurePosixPath((files["image"].filename or "").replace("\\", "/"))
    name = path.name[:200]
    try:
        options = _options(fields, model, limits)
        picture = _decode(files["image"], "image", limits)
        mask = _mask(files.get("mask"), fields, picture, limits)
        task = Task(picture, mask, name or "image")
        task.check()
        _check_work(task, options, model.model.settings.size, limits)
        memory = _memory(picture, options.candidates, limits)
    except MaskError as error:
        raise _invalid("mask", _sentence(error, name)) from error
    except InputError as error:
        raise _invalid("image", _sentence(error, name)) from error
    except SettingsError as error:
        raise _invalid(str(error).partition(":")[0].split(" ")[0], _sentence(error)) from error
    return CompletionRequest(model, task, options, fields.full, path.suffix.lower()[:6], memory)


def mask_png(spec: str, width: int, height: int, seed: int, limits: Limits) -> bytes:
    """Return the mask of a shape as a PNG; an unknown shape, or a size too large, is `Problem` 422."""
    try:
        limits.check_size(width, height)
        return encode_png(_shape(spec, height, width, seed).to_pixels(), quick=True)
    except InputError as error:
        raise _invalid("spec", _sentence(error)) from error


def _fields(form: FormData) -> tuple[dict[str, UploadFile], FormFields]:
    values: dict[str, UploadFile | str] = {}
    for name, value in form.multi_items():
        shown = name[:40]
        if name not in (*_FILES, *FormFields.model_fields):
            names = ", ".join((*_FILES, *FormFields.model_fields))
            raise _invalid(shown, f"There is no field {shown}; there are {names}.")
        if name in values:
            raise _invalid(shown, f"Field {shown} is given twice; send it once.")
        if isinstance(value, str) == (name in _FILES):
            kind = f"a file (curl: -F {name}=@FILE)" if name in _FILES else "text"
            raise _invalid(shown, f"Field {shown} is not {kind}; send it as such.")
        values[name] = value
    files = {name: value for name, value in values.items() if isinstance(value, UploadFile)}
    texts = {name: value for name, value in values.items() if isinstance(value, str) and value}
    if "image" not in files:
        raise _invalid("image", "An image file is missing; send one in the field image.")
    if "mask" in files and "mask_spec" in texts:
        raise _invalid("mask", "Fields mask and mask_spec are both given; send one of them.")
    try:
        return files, FormFields.model_validate(texts)
    except ValidationError as error:
        errors = [
            {"field": ".".join(map(str, each["loc"]))[:40], "message": each["msg"]}
            for each in error.errors(include_input=False, include_url=False)
        ]
        message = "; ".join(f"{each['field']}: {each['message']}" for each in errors)
        raise Problem(422, "field", f"{message}.", errors=errors) from error


def _options(fields: FormFields, model: ServedModel, limits: Limits) -> CompletionOptions:
    for name in ("candidates", "steps", "seconds"):
        _check(name, getattr(fields, name) or 0, getattr(limits, name))
    options = CompletionOptions(
        find_method(fields.method, steps=fields.steps, blend=fields.blend),
        fields.candidates,
        seed=fields.seed,
        batch=limits.batch,
        seconds=fields.seconds,
        answer=fields.answer,
        view=fields.view,
    )
    options = model.model.for_model(options)
    _check("steps", options.method.steps, limits.steps, f"of {fields.method}")
    return options


def _check_work(task: Task, options: CompletionOptions, size: int, limits: Limits) -> None:
    """Refuse more windows and answers than can be generated in time; a search ends at any step."""
    windows, method = 1, options.method
    if options.view == "window":
        from scipy.ndimage import label

        _, windows = label(task.mask.hole, structure=np.ones((3, 3)))
        if windows <= _MAX_HOLES:
            windows = len(windows_around(task.mask.hole, size))
    answers = max(options.candidates, method.restarts if method.steps else method.draws)
    answers *= 1 + method.finetune
    words = f"pixels to generate ({windows:,} windows x {answers} answers x {size} x {size})"
    _check("view", windows * answers * size**2, limits.work, words)


def _memory(picture: Picture, candidates: int, limits: Limits) -> int:
    pixels = picture.height * picture.width
    # Beside the answers: the image, its mask and the uncertainty of each pixel.
    size = (
        _COPIES * picture.native.itemsize * pixels * (len(picture.channels) * (candidates + 1) + 2)
    )
    words = f"MiB for {candidates} answers of {picture.width} x {picture.height} pixels"
    _check("candidates", size / 2**20, limits.memory_mib, words)
    return size


def _check(name: str, value: float, maximum: float, words: str = "") -> None:
    if value > maximum:
        asked = f"{value:,.6g} {words}".strip()
        raise SettingsError(
            f"{name}: {asked} is more than this server allows ({maximum:,.10g}); ask for less"
        )


def _decode(file: UploadFile, name: str, limits: Limits) -> Picture:
    content = file.file.read()
    picture = decode_image(content, Path(name), max_pixels=limits.pixels, formats=limits.formats)
    limits.check_size(picture.width, picture.height)
    return replace(picture, path=None)


def _mask(file: UploadFile | None, fields: FormFields, picture: Picture, limits: Limits) -> Mask:
    if file is None:
        size = picture.height, picture.width
        if fields.mask_spec:
            return _shape(fields.mask_spec, *size, fields.seed, picture)
        try:
            return make_mask("auto", *size, picture=picture)
        except MaskError as error:
            raise MaskError(
                "mask_spec: say what is missing: center, half:left, random:0.8, strokes:0.3 or "
                "another shape, or send a mask image as mask; transparent pixels need neither"
            ) from error
    try:
        return open_mask(_decode(file, "mask", limits), picture)
    except MaskError:
        raise
    except InputError as error:
        raise MaskError(str(error)) from error


def _shape(spec: str, height: int, width: int, seed: int, picture: Picture | None = None) -> Mask:
    shape, _, share = spec.partition(":")
    if not is_spec(spec):
        raise MaskError(f"mask_spec: there are {', '.join(SPECS)}; or send a mask image as mask")
    if shape == "strokes" and _number(share) > _MAX_STROKES:
        raise MaskError(f"mask_spec: strokes cover {_MAX_STROKES} at most here; ask for less")
    return make_mask(spec, height, width, seed=seed, picture=picture)


def _number(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0  # `make_mask` reports it


def _invalid(field: str, message: str) -> Problem:
    return Problem(422, "field", message, errors=[{"field": field, "message": message}])


def _sentence(error: Exception, name: str = "") -> str:
    message = str(error).strip().rstrip(".") or "cannot be used"
    is_named = bool(name) and message.startswith(name)
    return f"{message if is_named else message[0].upper() + message[1:]}."
