"""The encoder: from a masked image and its mask to a posterior over z, and to the `Condition` of G.

masked image, mask (, nearest training image) --E--> N(mean, variance) over z, a `Condition` of G, and a `PixelPosterior`

Learned inference as in BiGAN and ALI (Donahue 2017, Dumoulin 2017), amortised for images with holes: completing takes one pass
instead of a search of a thousand. A prior sample has no condition, so G stays an unconditional DCGAN.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pixmend.images import channel_count
from pixmend.models.dcgan import Condition, DCGANSettings
from pixmend.models.fill import harmonic_fill
from pixmend.models.layers import Downsample, Upsample

_INSIDE = 0.97  # of a guess, so that tanh reaches it
_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE = -8.0, 4.0  # beyond, exp overflows or draws are points


@dataclass(frozen=True)
class PixelPosterior:
    """What E makes of the missing pixels without G: of all images that fit what is known, the mean, and how far they differ.

    The mean is the answer of the least squared error, and a blur; G's images are sharp and err more (Blau and Michaeli 2018). Mean
    and variance are learned by squared error and by likelihood (Kendall and Gal 2017, equation 5).

    Attributes
    ----------
    mean
        [B, C, S, S] in [-1, 1].
    log_variance
        Of a pixel's values, their mean over the channels: [B, 1, S, S].
    """

    mean: Tensor
    log_variance: Tensor

    def take(self, rows: Tensor) -> "PixelPosterior":
        """Return the estimates of the images numbered ``rows`` [N]."""
        return PixelPosterior(self.mean[rows], self.log_variance[rows])


@dataclass(frozen=True)
class Encoding:
    """What E makes of masked images.

    Attributes
    ----------
    mean, log_variance
        Of the posterior N(mean, exp(log_variance)) over z, each [B, latent_dim].
    condition
        The condition of G beside z; None where the model's `encoder` is not "conditional".
    pixel_posterior
        The mean of the images that fit, and their variance; None as `condition`.
    """

    mean: Tensor
    log_variance: Tensor
    condition: Condition | None
    pixel_posterior: PixelPosterior | None

    def draw(self, noise: Tensor) -> Tensor:
        """Return z = mean + sigma * noise for noise [B, latent_dim] from N(0, 1) (Kingma and Welling 2014, section 2.4)."""
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def exact(self) -> "Encoding":
        """Return it in float32, but for the condition of G."""
        estimate = self.pixel_posterior
        if estimate is not None:
            estimate = PixelPosterior(estimate.mean.float(), estimate.log_variance.float())
        return Encoding(self.mean.float(), self.log_variance.float(), self.condition, estimate)

    def take(self, rows: Tensor) -> "Encoding":
        """Return what is made of the images numbered ``rows`` [N]."""
        return Encoding(
            self.mean[rows],
            self.log_variance[rows],
            None if self.condition is None else self.condition.take(rows),
            None if self.pixel_posterior is None else self.pixel_posterior.take(rows),
        )


class Encoder(nn.Module):
    """E: what is known of an image -> `Encoding`; it mirrors D, but for the batch norm at its input, which is there.

    Where G is conditioned on the image, the way back up mirrors G, each layer adding the maps of the same size on the way down (U-Net,
    Ronneberger 2015). Its maps, through a 1 x 1 convolution, are added to G's at the same size before its ReLU; at full size they
    meet a convolution of E's input, and from there come the pixel posterior and what is added before G's tanh. With
    `hole_init = "harmonic"` both are corrections of a smooth guess, which E then sees in the hole.
    """

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        colours = channel_count(settings.channels)
        widths = settings.widths(settings.encoder_filters or settings.filters)[::-1]
        # The masked image, the mask, and the training image nearest on the known pixels where there is a memory.
        inputs = colours * (2 if settings.retrieval_images else 1) + 1
        # [B, widths[i], s, s] -> [B, widths[i + 1], s / 2, s / 2]
        self.downs = nn.ModuleList(
            nn.Sequential(
                Downsample(narrow, wide, 4, 2, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for narrow, wide in pairwise([inputs, *widths])
        )
        # [B, widths[-1], start, start] -> [B, 2 * latent_dim, 1, 1]
        self.to_posterior = nn.Conv2d(widths[-1], 2 * settings.latent_dim, settings.start)
        self.conditional = settings.encoder == "conditional"
        self.smooth = settings.hole_init == "harmonic"
        if self.conditional:
            fine = max(8, widths[0] * 2 // 5)
            # [B, narrow, s / 2, s / 2] -> [B, wide, s, s], the way back
            self.ups = nn.ModuleList(
                nn.Sequential(Upsample(wide, narrow, 4, 2, 1, bias=False), nn.BatchNorm2d(narrow))
                for wide, narrow in pairwise([*widths[::-1], fine])
            )
            self.condition_heads = nn.ModuleList(
                nn.Conv2d(ours, theirs, 1)
                for ours, theirs in zip(
                    widths[::-1], settings.widths(settings.filters), strict=True
                )
            )
            self.input_skip = nn.Conv2d(inputs, fine, 3, padding=1)
            self.fuse = nn.Conv2d(fine, fine, 3, padding=1)
            self.residual = nn.Conv2d(fine, colours, 3, padding=1)
            self.to_pixel_posterior = nn.Conv2d(fine, colours + 1, 3, padding=1)

    def forward(self, target: Tensor, known: Tensor, neighbour: Tensor | None = None) -> Encoding:
        """Encode masked images.

        Parameters
        ----------
        target
            [B, C, S, S] in [-1, 1]; values in the hole do not matter.
        known
            [B, 1, S, S], 1 = known, 0 = missing.
        neighbour
            [B, C, S, S], for a model with a memory: see `pixmend.models.Retrieval`.
        """
        shown = harmonic_fill(target, known) if self.smooth else target * known
        seen = [shown, known * 2 - 1]
        if neighbour is not None:
            seen.append(neighbour)
        inputs = torch.cat(seen, 1)
        maps = [inputs]
        for down in self.downs:
            maps.append(down(maps[-1]))
        mean, log_variance = self.to_posterior(maps[-1]).flatten(1).chunk(2, 1)
        log_variance = log_variance.clamp(_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE)
        return Encoding(mean, log_variance, *self._condition(inputs, maps[1:], shown))

    def _condition(
        self, inputs: Tensor, maps: list[Tensor], shown: Tensor
    ) -> tuple[Condition, PixelPosterior] | tuple[None, None]:
        if not self.conditional:
            return None, None
        back = [maps[-1]]  # from `start` pixels to full size
        for up, beside in zip(self.ups, [*maps[-2::-1], self.input_skip(inputs)], strict=True):
            back.append(nn.functional.leaky_relu(up(back[-1]) + beside, 0.2))
        condition_maps = [
            head(each) for head, each in zip(self.condition_heads, back[:-1], strict=True)
        ]
        fine = nn.functional.leaky_relu(self.fuse(back[-1]), 0.2)
        estimate = self.to_pixel_posterior(fine)
        spread = estimate[:, -1:].clamp(_LEAST_LOG_VARIANCE, _MOST_LOG_VARIANCE)
        detail, mean = self.residual(fine), estimate[:, :-1]
        if self.smooth:  # both are corrections of the guess
            guess = torch.atanh(_INSIDE * shown)
            detail, mean = detail + guess, mean + guess
        return Condition(condition_maps, detail), PixelPosterior(torch.tanh(mean), spread)


def join_encodings(encodings: list[Encoding]) -> Encoding:
    """Return the encodings of several batches as those of one."""
    conditions = [each.condition for each in encodings if each.condition is not None]
    estimates = [each.pixel_posterior for each in encodings if each.pixel_posterior is not None]
    condition = estimate = None
    if conditions:
        maps = zip(*(each.maps for each in conditions), strict=True)
        detail = torch.cat([each.residual for each in conditions])
        condition = Condition([torch.cat(each) for each in maps], detail)
    if estimates:
        spread = torch.cat([each.log_variance for each in estimates])
        estimate = PixelPosterior(torch.cat([each.mean for each in estimates]), spread)
    mean = torch.cat([each.mean for each in encodings])
    return Encoding(mean, torch.cat([each.log_variance for each in encodings]), condition, estimate)


def kl_to_prior(encoding: Encoding) -> Tensor:
    """Return KL(N(mean, variance) || N(0, I)) in nats, [B] (Kingma and Welling 2014, appendix B)."""
    mean, log_variance = encoding.mean, encoding.log_variance
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
