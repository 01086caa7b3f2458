"""The encoder: from a masked image to a posterior over z, and to the `Condition` of G.

    masked image, mask (, nearest training image)
        --E--> N(mean, variance) over z, a `Condition` of G, a `PixelPosterior`

Learned inference as in BiGAN and ALI (Donahue 2017, Dumoulin 2017), amortised for images with
holes: one pass replaces a search of a thousand steps. Prior samples have no condition, so G stays
an unconditional DCGAN.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.images import channel_count
from pixmend.models.dcgan import Condition, down
from pixmend.models.layers import Upsample
from pixmend.models.settings import DCGANSettings

_GUESS_SCALE = 0.97  # keeps the harmonic fill within reach of tanh
_LOG_VARIANCES = (-8.0, 4.0)  # outside, exp overflows or samples collapse to points
_SWEEPS = 8  # of the harmonic fill, at each resolution
# Assumed spectral radius of a Jacobi sweep, so that 8 accelerated sweeps do the work of 40 plain
# ones. Closer to 1, wide holes would become smoother and narrow ones unstable.
_RADIUS = 0.97
_MIN_SIDE = 4


@dataclass(frozen=True)
class PixelPosterior:
    """E's direct estimate of missing pixels: mean and variance of all images that fit.

    The mean has the least squared error and is blurred; G's images are sharp and err more (Blau and
    Michaeli 2018). Squared error and likelihood train both (Kendall and Gal 2017, equation 5).

    Attributes
    ----------
    mean
        [B, C, S, S] in [-1, 1].
    log_variance
        Mean over the channels, [B, 1, S, S].
    """

    mean: Tensor
    log_variance: Tensor

    def take(self, rows: Tensor) -> "PixelPosterior":
        """Return the estimates of ``rows`` [N]."""
        return PixelPosterior(self.mean[rows], self.log_variance[rows])


@dataclass(frozen=True)
class Encoding:
    """E's output for a batch of masked images.

    Attributes
    ----------
    mean, log_variance
        Of the posterior N(mean, exp(log_variance)) over z, [B, latent_dim].
    condition, pixel_posterior
        None unless the model's `encoder` is "conditional".
    """

    mean: Tensor
    log_variance: Tensor
    condition: Condition | None
    pixel_posterior: PixelPosterior | None

    def draw(self, noise: Tensor) -> Tensor:
        """Return z = mean + sigma * noise, of N(0, 1) noise (Kingma and Welling 2014, section 2.4)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def exact(self) -> "Encoding":
        """Return the posteriors in float32; the condition keeps its type."""
        pixels = self.pixel_posterior
        if pixels is not None:
            pixels = PixelPosterior(pixels.mean.float(), pixels.log_variance.float())
        return Encoding(self.mean.float(), self.log_variance.float(), self.condition, pixels)

    def take(self, rows: Tensor) -> "Encoding":
        """Return the encodings of ``rows`` [N]."""
        condition, pixels = self.condition, self.pixel_posterior
        return Encoding(
            self.mean[rows],
            self.log_variance[rows],
            condition and condition.take(rows),
            pixels and pixels.take(rows),
        )


class Encoder(nn.Module):
    """E: downsampling to a posterior over z, then upsampling to the condition and pixel posterior.

    The layers down are D's, with batch norm at the input too. Each upsampling layer adds the maps
    of equal size from the way down (U-Net, Ronneberger 2015). 1 x 1 convolutions turn its maps into
    those of the `Condition`. At full size a convolution of E's input is added; from these maps come
    the pixel posterior and the residual. With `hole_init = "harmonic"` E sees a harmonic fill in
    the hole, and both correct it.
    """

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        colours = channel_count(settings.channels)
        widths = settings.widths(settings.encoder_filters or settings.filters)[::-1]
        # The masked image, the mask, and with retrieval the training image nearest on the known
        # pixels.
        inputs = colours * (2 if settings.retrieval_images else 1) + 1
        # [B, widths[i], s, s] -> [B, widths[i + 1], s / 2, s / 2]
        self.downs = nn.ModuleList(down(*pair, 4) for pair in pairwise([inputs, *widths]))
        # [B, widths[-1], start, start] -> [B, 2 * latent_dim, 1, 1]
        self.to_posterior = nn.Conv2d(widths[-1], 2 * settings.latent_dim, settings.start)
        self.conditional = settings.encoder == "conditional"
        self.harmonic = settings.hole_init == "harmonic"
        if self.conditional:
            fine = max(8, widths[0] * 2 // 5)
            # [B, wide, s, s] -> [B, narrow, 2 s, 2 s]
            self.ups = nn.ModuleList(
                nn.Sequential(Upsample(wide, narrow, 4, bias=False), nn.BatchNorm2d(narrow))
                for wide, narrow in pairwise([*widths[::-1], fine])
            )
            generator_widths = settings.widths(settings.filters)
            self.condition_heads = nn.ModuleList(
                nn.Conv2d(*pair, 1) for pair in zip(widths[::-1], generator_widths, strict=True)
            )
            self.input_skip = nn.Conv2d(inputs, fine, 3, padding=1)
            self.fuse = nn.Conv2d(fine, fine, 3, padding=1)
            self.residual = nn.Conv2d(fine, colours, 3, padding=1)
            self.to_pixel_posterior = nn.Conv2d(fine, colours + 1, 3, padding=1)

    def forward(self, target: Tensor, known: Tensor, neighbour: Tensor | None = None) -> Encoding:
        """Encode ``target`` [B, C, S, S] in [-1, 1] where ``known`` [B, 1, S, S] is 1.

        A model with retrieval requires the ``neighbour`` of each image, [B, C, S, S].
        """
        visible = harmonic_fill(target, known) if self.harmonic else target * known
        inputs = torch.cat([visible, known * 2 - 1, *([] if neighbour is None else [neighbour])], 1)
        maps = [inputs]
        for layer in self.downs:
            maps.append(layer(maps[-1]))
        mean, log_variance = self.to_posterior(maps[-1]).flatten(1).chunk(2, 1)
        log_variance = log_variance.clamp(*_LOG_VARIANCES)
        return Encoding(mean, log_variance, *self._condition(inputs, maps[1:], visible))

    def _condition(
        self, inputs: Tensor, maps: list[Tensor], visible: Tensor
    ) -> tuple[Condition, PixelPosterior] | tuple[None, None]:
        if not self.conditional:
            return None, None
        ups = [maps[-1]]  # from `start` pixels to full size
        for layer, skip in zip(self.ups, [*maps[-2::-1], self.input_skip(inputs)], strict=True):
            ups.append(F.leaky_relu(layer(ups[-1]) + skip, 0.2))
        conditions = [head(each) for head, each in zip(self.condition_heads, ups[:-1], strict=True)]
        fine = F.leaky_relu(self.fuse(ups[-1]), 0.2)
        estimate = self.to_pixel_posterior(fine)
        log_variance = estimate[:, -1:].clamp(*_LOG_VARIANCES)
        residual, mean = self.residual(fine), estimate[:, :-1]
        if self.harmonic:
            guess = torch.atanh(_GUESS_SCALE * visible)
            residual, mean = residual + guess, mean + guess
        return Condition(conditions, residual), PixelPosterior(torch.tanh(mean), log_variance)


def join_encodings(encodings: list[Encoding]) -> Encoding:
    """Return the encodings of several batches as those of one."""
    mean = torch.cat([each.mean for each in encodings])
    log_variance = torch.cat([each.log_variance for each in encodings])
    conditions = [each.condition for each in encodings if each.condition is not None]
    pixels = [each.pixel_posterior for each in encodings if each.pixel_posterior is not None]
    if not conditions:
        return Encoding(mean, log_variance, None, None)
    maps = zip(*(each.maps for each in conditions), strict=True)
    residual = torch.cat([each.residual for each in conditions])
    pixel_mean = torch.cat([each.mean for each in pixels])
    pixel_log_variance = torch.cat([each.log_variance for each in pixels])
    return Encoding(
        mean,
        log_variance,
        Condition([torch.cat(each) for each in maps], residual),
        PixelPosterior(pixel_mean, pixel_log_variance),
    )


def kl_to_prior(encoding: Encoding) -> Tensor:
    """Return KL(N(mean, variance) || N(0, I)), [B] (Kingma and Welling 2014, appendix B)."""
    mean, log_variance = encoding.mean, encoding.log_variance
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


@torch.no_grad()
def harmonic_fill(target: Tensor, known: Tensor) -> Tensor:
    """Fill holes with a nearly harmonic function of the known pixels: no extremes, no edges.

    Coarse to fine: each resolution starts from the coarser one and takes eight Jacobi sweeps (each
    missing pixel becomes the mean of its four neighbours), accelerated by the Chebyshev
    semi-iterative method (Golub and Varga 1961, equation 2.15). ``target`` [B, C, S, S] is in
    [-1, 1], ``known`` [B, 1, S, S] in [0, 1], 1 = known. An image without known pixels becomes 0.
    """
    sums, shares = [target * known], [known]
    while sums[-1].shape[-1] >= 2 * _MIN_SIDE:
        sums.append(F.avg_pool2d(sums[-1], 2))
        shares.append(F.avg_pool2d(shares[-1], 2))
    # The mean of all known pixels, where the coarsest resolution has no known pixel.
    share = shares[-1].mean((2, 3), keepdim=True).clamp_min(1e-6)
    filled = (sums[-1].mean((2, 3), keepdim=True) / share).expand_as(sums[-1])
    for total, share in zip(sums[::-1], shares[::-1], strict=True):
        if filled.shape != total.shape:
            filled = F.interpolate(filled, scale_factor=2.0, mode="bilinear", align_corners=False)
        # A partly known coarse pixel counts as known, with the mean of its known part.
        fixed = (share > 0).to(share.dtype) if total is not sums[0] else share
        values = total / share.clamp_min(1e-6)
        filled = _relax(torch.lerp(filled, values, fixed), values, fixed)
    # Acceleration may overshoot; a harmonic function stays between its boundary values.
    low = torch.where(known > 0, target, 1).amin((2, 3), keepdim=True)
    high = torch.where(known > 0, target, -1).amax((2, 3), keepdim=True)
    return filled.clamp(torch.minimum(low, high), torch.maximum(low, high))


def _relax(filled: Tensor, values: Tensor, fixed: Tensor) -> Tensor:
    previous, step = filled, 1.0
    for sweep in range(_SWEEPS):
        swept = torch.lerp(_mean_of_neighbours(filled), values, fixed)
        if sweep:
            step = 1 / (1 - _RADIUS**2 * step / (2 if sweep == 1 else 4))
        filled, previous = previous + step * (swept - previous), filled
    return filled


def _mean_of_neighbours(values: Tensor) -> Tensor:
    """Return the mean of the four neighbours of each pixel; edges are replicated."""
    padded = F.pad(values, (1, 1, 1, 1), mode="replicate")
    vertical = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1]
    return (vertical + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]) / 4
