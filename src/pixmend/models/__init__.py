"""The networks, and the one file that holds them."""

from pixmend.models.dcgan import (
    Condition,
    DCGANSettings,
    Discriminator,
    Generator,
    clip_radius,
    initialise,
    sample_latents,
)
from pixmend.models.encoder import Encoder, Encoding, Estimate, join_encodings, kl_to_prior
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
from pixmend.models.inference import encode, infer, infer_average
from pixmend.models.memory import Memory
from pixmend.models.residual import make_discriminator, make_generator
from pixmend.models.trust import RIGHT, Trust, calibrate, known_error

__all__ = [
    "BUNDLED",
    "DCGAN",
    "RIGHT",
    "Condition",
    "DCGANSettings",
    "Discriminator",
    "Encoder",
    "Encoding",
    "Estimate",
    "Generator",
    "Memory",
    "Trust",
    "calibrate",
    "clip_radius",
    "encode",
    "find_model",
    "infer",
    "infer_average",
    "initialise",
    "join_encodings",
    "kl_to_prior",
    "known_error",
    "load_model",
    "make_discriminator",
    "make_generator",
    "read_header",
    "read_tensors",
    "sample_latents",
    "save_model",
    "write_tensors",
]
