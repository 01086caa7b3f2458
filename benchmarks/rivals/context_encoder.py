"""The Context Encoder (Pathak et al. 2016), trained on all kinds of holes.

The architecture is that of section 3.1: 4 x 4 convolutions halve the image down to a 1 x 1
bottleneck, and transposed ones restore it (4,000 units at 128 px there, 8 per filter here). The
input is the image with its hole in the mean colour and, as the hole varies, the mask. The loss is
0.999 x squared error of the hole + 0.001 x adversarial loss of the completed image (equations 1 to
3; learning rates of section 4). There are no channel-wise layers.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rivals.networks import halve, update, widths_to_four_pixels

RATE, RATE_D = 2e-3, 2e-4  # section 4: ten times the discriminator's
RECONSTRUCTION, ADVERSARIAL = 0.999, 0.001


class ContextEncoder(nn.Module):
    """Maps an image with a hole [B, C, S, S] and its mask [B, 1, S, S] to an image."""

    stochastic = False

    def __init__(self, images: Tensor, filters: int) -> None:
        """Prepare to train on images uint8 [N, C, S, S] of a power of two."""
        super().__init__()
        channels, size = images.shape[1:3]
        self.register_buffer("mean", images.float().mean((0, 2, 3)).view(1, -1, 1, 1) / 127.5 - 1)
        widths = widths_to_four_pixels(filters, size)
        bottleneck = 8 * filters
        up = [*_norm(nn.ConvTranspose2d(bottleneck, widths[-1], 4), nn.ReLU())]
        for wide, narrow in pairwise(widths[::-1]):
            up += _norm(nn.ConvTranspose2d(wide, narrow, 4, 2, 1), nn.ReLU())
        up += [nn.ConvTranspose2d(widths[0], channels, 4, 2, 1), nn.Tanh()]
        encoder = halve(channels + 1, widths)
        encoder += _norm(nn.Conv2d(widths[-1], bottleneck, 4), nn.LeakyReLU(0.2))
        self.net = nn.Sequential(*encoder, *up)
        self.judge = nn.Sequential(*halve(channels, widths), nn.Conv2d(widths[-1], 1, 4))
        self.learns = torch.optim.Adam(self.net.parameters(), RATE, betas=(0.5, 0.999))
        self.judges = torch.optim.Adam(self.judge.parameters(), RATE_D, betas=(0.5, 0.999))

    def complete(self, images: Tensor, known: Tensor) -> Tensor:
        """Complete images in [-1, 1]; ``known`` is 1 or 0."""
        drawn = self.net(torch.cat([torch.where(known > 0, images, self.mean), known], 1))
        return torch.where(known > 0, images, drawn.float())

    def learn(self, real: Tensor, known: Tensor, autocast: torch.autocast) -> float:
        """Take one step of both networks; return the squared error over the holes."""
        with autocast:
            completed = self.complete(real, known)
            fake = F.softplus(self.judge(completed.detach())).mean()
            loss_d = (F.softplus(-self.judge(real)).mean() + fake) / 2
        update(self.judges, loss_d)
        hole = (1 - known).expand_as(real)
        with autocast:
            fooled = F.softplus(-self.judge(completed)).flatten()
            error = ((completed - real).square() * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3))
            loss = (RECONSTRUCTION * error + ADVERSARIAL * fooled).mean()
        update(self.learns, loss)
        return float(error.detach().mean())


def _norm(convolution: nn.Module, activation: nn.Module) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), activation]
