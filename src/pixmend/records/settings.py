"""The settings of `pack`."""

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from pixmend.errors import SettingsError
from pixmend.images import Channels, Fit, parse_colour


class PackSettings(BaseModel):
    """What decides the bytes of the shards, besides the images themselves.

    Attributes
    ----------
    size
        Side of the square images, in pixels, 8 to 1024.
    channels
        ``L``, ``RGB`` or ``RGBA``; None looks at the images: RGBA if any is transparent somewhere,
        else L if all are grey, else RGB.
    fit
        ``crop`` the centre square, ``pad`` to a square, or ``stretch``.
    background
        A colour name or ``#rrggbb``: what shows through alpha, and what ``pad`` adds.
    images_per_shard
        No shard holds more.

    Raises
    ------
    SettingsError
        A value is out of range; names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=64, ge=8, le=1024)
    channels: Channels | None = None
    fit: Fit = "crop"
    background: str = "white"
    images_per_shard: int = Field(default=4096, ge=1, le=100_000)

    @field_validator("background")
    @classmethod
    def _known_colour(cls, value: str) -> str:
        parse_colour(value)
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _for_users(
        cls,
        data: Any,  # noqa: ANN401 - pydantic hands over whatever it was given
        handler: ModelWrapValidatorHandler["PackSettings"],
    ) -> "PackSettings":
        try:
            return handler(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "settings"
            # None has a meaning of its own, so pydantic's list of choices is all there is to say.
            message = first["msg"].removeprefix("Input should be ")
            raise SettingsError(
                f"{field}: {first['input']!r} cannot be used; it should be {message}"
            ) from error
