"""Settings that define the networks of a DCGAN."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pixmend.images import Channels, channel_count

_MAX_RETRIEVAL_BYTES = 2**28
_MAX_WIDTH = 1024  # as in Radford 2015, figure 1; deeper networks grow no wider


class DCGANSettings(BaseModel):
    """Architecture of G, D and the inpainter; `filters` 128 and `kernel` 5 give figure 1 of Radford 2015."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: Literal[16, 32, 64, 96, 128, 256] = Field(
        64, description="side of the square image, in pixels"
    )
    channels: Channels = Field("RGB", description="L, RGB or RGBA")
    filters: int = Field(64, ge=4, le=1024, description="feature maps of G's last hidden layer")
    discriminator_filters: int | None = Field(
        None, ge=4, le=1024, description="feature maps of D's first layer; `filters` by default"
    )
    kernel: Literal[4, 5] = Field(4, description="kernel size of the strided convolutions")
    latent_dim: int = Field(100, ge=2, le=4096, description="dimension of z")
    latent_prior: Literal["normal", "uniform"] = Field(
        "normal", description="prior of z: N(0, 1) or U(-1, 1)"
    )
    inpainter_filters: int = Field(
        0, ge=0, le=512, multiple_of=8, description="feature maps of the inpainter; 0 = none"
    )
    retrieval_images: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="training images stored in the model file, for the inpainter to look at; 0 = none",
    )

    @model_validator(mode="after")
    def _retrieval_fits(self) -> Self:
        most = _MAX_RETRIEVAL_BYTES // (channel_count(self.channels) * self.size**2)
        if self.retrieval_images > most:
            raise ValueError(
                f"retrieval_images = {self.retrieval_images} exceeds what a model file can hold: "
                f"at most {most} of {self.size} px {self.channels}"
            )
        if self.retrieval_images and not self.inpainter_filters:
            raise ValueError("retrieval_images needs an inpainter: set inpainter_filters = 32")
        return self

    @property
    def start(self) -> int:
        """Side of the smallest feature maps: 4, or 6 for 96 px (6 x 2^4 = 96)."""
        return 6 if self.size == 96 else 4

    def widths(self, filters: int) -> list[int]:
        """Return feature maps a layer, from the widest (at `start` pixels) to ``filters``."""
        depth = (self.size // self.start).bit_length() - 1
        widest = max(_MAX_WIDTH, filters)
        return [min(filters * 2**layer, widest) for layer in reversed(range(depth))]
