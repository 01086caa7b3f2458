"""A request's form: what it may say, and what it becomes."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pixmend.completion import CompletionOptions, Task, find_method, open_mask
from pixmend.errors import InputError, MaskError, SettingsError
from pixmend.images import Picture, decode_image, encode_png
from pixmend.masks import SHAPES, Mask, make_mask
from pixmend.serve.catalogue import Catalogue, ServedModel
from pixmend.serve.limits import Limits
from pixmend.serve.problems import Problem

_FILES = ("image", "mask")
_MOST_STROKES = 0.8


class Settings(BaseModel):
    """The fields of a form that are no files."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        str, Field(max_length=200, description="A model's id; the first if not given.")
    ] = ""
    mask_spec: Annotated[
        str,
        Field(
            max_length=100, description="A mask shape such as center:0.5, where no mask is sent."
        ),
    ] = "center"
    method: Annotated[
        str, Field(max_length=40, description="instant, default, best, or a published method.")
    ] = "default"
    steps: Annotated[int | None, Field(ge=1, description="Steps of the search.")] = None
    seconds: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="A time budget; such a search runs alone."),
    ] = None
    candidates: Annotated[int, Field(ge=1, description="Distinct answers, best first.")] = 1
    seed: Annotated[int, Field(ge=0, lt=2**53, description="Of all draws.")] = 0
    answer: Literal["sharp", "average"] = "sharp"
    blend: Literal["paste", "feather", "poisson"] | None = None
    view: Literal["whole", "window"] = "whole"
    full: Annotated[
        bool, Field(description="Also the latents, the history, and the uncertainty in numbers.")
    ] = False


@dataclass(frozen=True)
class CompletionRequest:
    """What a request asks for."""

    offer: ServedModel
    job: Task
    options: CompletionOptions
    full: bool
    suffix: str  # of the file that came in


def form_schema() -> dict[str, Any]:
    """Return the form as OpenAPI has it."""
    schema = Settings.model_json_schema()
    binary = {"type": "string", "format": "binary"}
    properties = {
        "image": {**binary, "description": "The image file."},
        "mask": {**binary, "description": "A mask image of its size, white = hole."},
        **schema["properties"],
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": properties, "required": ["image"]},
                "example": {"mask_spec": "center", "method": "default", "candidates": 4, "seed": 0},
            }
        },
    }


class _InMemory(MultiPartParser):
    spool_max_size = 2**40  # nothing of a user's is written to disk; the body's length is bounded

    async def whole(self) -> FormData:
        """Parse, and close what is open where the body breaks off."""
        try:
            form = await self.parse()
            kept = {id(each.file) for _, each in form.multi_items() if isinstance(each, UploadFile)}
            for file in self._files_to_close_on_error:
                if id(file) not in kept:  # of a part without an end
                    file.close()
            return form
        except BaseException:
            for file in self._files_to_close_on_error:
                file.close()
            raise


async def read_form(request: Request) -> FormData:
    """Read a multipart body, all of it in memory.

    Raises
    ------
    Problem
        415 another kind of body, 400 a broken one.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Problem(415, "form", "Send a form (multipart/form-data) with the field image.")
    parser = _InMemory(
        request.headers, request.stream(), max_files=4, max_fields=32, max_part_size=4096
    )
    try:
        return await parser.whole()
    except ClientDisconnect as error:
        raise Problem(400, "form", "The form broke off; send it anew.") from error
    except (MultiPartException, FormParserError, ValueError, KeyError, LookupError) as error:
        raise Problem(400, "form", "The form is broken; send it anew.") from error


def asked_of(form: FormData, catalogue: Catalogue, limits: Limits) -> CompletionRequest:
    """Return what a form asks for; decodes, so it is no work for the event loop.

    Raises
    ------
    Problem
        404 no such model, 422 a field that cannot be used, each with what to do.
    """
    files = {name: form.get(name) for name in _FILES}
    settings = _settings(form)
    offer = catalogue.get(settings.model) if settings.model else catalogue.first
    if offer is None:
        raise Problem(
            404, "model", f"There is no such model here; there are {', '.join(catalogue)}."
        )
    image = files["image"]
    if not isinstance(image, UploadFile):
        raise _field("image", "An image file is missing; send one in the field image.")
    try:
        options = _options(settings, offer, limits)
        picture = _decoded(image, "image", limits)
        mask = _mask(files["mask"], settings, picture, limits)
        name = PurePosixPath((image.filename or "image").replace("\\", "/"))
        job = Task(picture, mask, name.name[:200] or "image")
        job.check()
    except MaskError as error:
        raise _field("mask", _sentence(error)) from error
    except InputError as error:
        raise _field("image", _sentence(error)) from error
    except SettingsError as error:
        raise _field(str(error).partition(":")[0].split(" ")[0], _sentence(error)) from error
    return CompletionRequest(offer, job, options, settings.full, name.suffix.lower()[:6])


def mask_png(spec: str, width: int, height: int, seed: int) -> bytes:
    """Return the mask of a shape as a PNG.

    Raises
    ------
    Problem
        422 no such shape.
    """
    try:
        return encode_png(_shape(spec, height, width, seed).to_pixels(), quick=True)
    except MaskError as error:
        raise _field("spec", _sentence(error)) from error


def _settings(form: FormData) -> Settings:
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in _FILES and isinstance(value, UploadFile):
            continue
        if name in fields or not isinstance(value, str):
            words = f"Field {name[:40]} is given twice, or as a file; send it once, as text."
            raise _field(name[:40], words)
        if value != "":
            fields[name] = value
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        errors = [
            {"field": ".".join(map(str, each["loc"]))[:40], "message": each["msg"]}
            for each in error.errors(include_input=False, include_url=False)
        ]
        words = "; ".join(f"{each['field']}: {each['message']}" for each in errors)
        raise Problem(422, "field", f"{words}.", errors=errors) from error


def _options(settings: Settings, offer: ServedModel, limits: Limits) -> CompletionOptions:
    for name in ("candidates", "steps", "seconds"):
        value, most = getattr(settings, name), getattr(limits, name)
        if value is not None and value > most:
            raise SettingsError(
                f"{name}: {value:g} is more than this server allows ({most:g}); ask for less"
            )
    method = find_method(settings.method, steps=settings.steps, blend=settings.blend)
    options = CompletionOptions(
        method,
        settings.candidates,
        seed=settings.seed,
        batch=limits.batch,
        seconds=settings.seconds,
        answer=settings.answer,
        view=settings.view,
    )
    options = offer.model.for_model(options)
    if options.method.steps > limits.steps:
        raise SettingsError(
            f"steps: {options.method.steps} of {settings.method} are more than this server allows ({limits.steps}); ask for less"
        )
    return options


def _decoded(file: UploadFile, name: str, limits: Limits) -> Picture:
    content = file.file.read()
    picture = decode_image(content, Path(name), max_pixels=limits.pixels, formats=limits.formats)
    return replace(picture, path=None)


def _mask(
    file: UploadFile | str | None, settings: Settings, picture: Picture, limits: Limits
) -> Mask:
    if not isinstance(file, UploadFile):
        return _shape(settings.mask_spec, picture.height, picture.width, settings.seed)
    try:
        return open_mask(_decoded(file, "mask", limits).pixels, picture)
    except MaskError:
        raise
    except InputError as error:
        raise MaskError(str(error)) from error


def _shape(spec: str, height: int, width: int, seed: int) -> Mask:
    if spec.partition(":")[0] not in SHAPES:
        raise MaskError(f"mask_spec: there are {', '.join(SHAPES)}; or send a mask image as mask")
    if spec.startswith("strokes") and _number(spec.partition(":")[2]) > _MOST_STROKES:
        # The last few pixels take strokes without end.
        raise MaskError(f"mask_spec: strokes cover {_MOST_STROKES} at the most here; ask for less")
    return make_mask(spec, height, width, seed=seed)


def _number(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0  # told by `make_mask`


def _field(name: str, words: str) -> Problem:
    return Problem(422, "field", words, errors=[{"field": name, "message": words}])


def _sentence(error: Exception) -> str:
    words = str(error).strip().rstrip(".") or "cannot be used"
    return f"{words[0].upper()}{words[1:]}."
