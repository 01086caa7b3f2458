"""The networks, and the one file that holds them."""

from pixmend.models.dcgan import (
    DCGANSettings,
    Discriminator,
    Generator,
    clip_radius,
    initialise,
    sample_latents,
)
from pixmend.models.file import (
    BUNDLED,
    DCGAN,
    find_model,
    load_model,
    read_header,
    read_tensors,
    save_model,
    write_tensors,
)

__all__ = [
    "BUNDLED",
    "DCGAN",
    "DCGANSettings",
    "Discriminator",
    "Generator",
    "clip_radius",
    "find_model",
    "initialise",
    "load_model",
    "read_header",
    "read_tensors",
    "sample_latents",
    "save_model",
    "write_tensors",
]
