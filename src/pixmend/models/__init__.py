"""The networks, their calibration, and the model file."""

from pixmend.model_header import BUNDLED, read_header
from pixmend.models.calibration import CORRECT_TOLERANCE, Calibration, calibrate
from pixmend.models.dcgan import (
    Discriminator,
    Generator,
    clip_radius,
    initialise,
    sample_latents,
)
from pixmend.models.inpainter import (
    INPAINTER_LATENT,
    LEAST_WEIGHT,
    NEIGHBOURS,
    ROW_BLOCK,
    Evidence,
    Inpainted,
    Inpainter,
    gather_evidence,
    initialise_inpainter,
    inpainter_latents,
    whole_blocks,
)
from pixmend.models.model import DCGAN
from pixmend.models.model_file import (
    find_model,
    load_model,
    read_tensors,
    save_model,
    write_tensors,
)
from pixmend.models.retrieval import Retrieval
from pixmend.models.settings import DCGANSettings
from pixmend.models.smooth_fill import biharmonic_fill, harmonic_fill
