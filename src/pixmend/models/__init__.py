"""The networks, their calibration, and the model file."""

from pixmend.models.calibration import CORRECT_TOLERANCE, Calibration, calibrate, known_error
from pixmend.models.dcgan import (
    Condition,
    Discriminator,
    Generator,
    clip_radius,
    initialise,
    sample_latents,
)
from pixmend.models.encoder import Encoder, Encoding, PixelPosterior, join_encodings, kl_to_prior
from pixmend.models.model import DCGAN, encode, infer, infer_mean
from pixmend.models.model_file import (
    BUNDLED,
    find_model,
    load_model,
    read_header,
    read_tensors,
    save_model,
    write_tensors,
)
from pixmend.models.retrieval import Retrieval
from pixmend.models.settings import DCGANSettings

__all__ = [
    "BUNDLED",
    "CORRECT_TOLERANCE",
    "DCGAN",
    "Calibration",
    "Condition",
    "DCGANSettings",
    "Discriminator",
    "Encoder",
    "Encoding",
    "Generator",
    "PixelPosterior",
    "Retrieval",
    "calibrate",
    "clip_radius",
    "encode",
    "find_model",
    "infer",
    "infer_mean",
    "initialise",
    "join_encodings",
    "kl_to_prior",
    "known_error",
    "load_model",
    "read_header",
    "read_tensors",
    "sample_latents",
    "save_model",
    "write_tensors",
]
