"""Detail beyond the model's size, from examples in the image itself (Freeman et al. 2002; Glasner et al. 2009)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE = 5  # of a patch, in pixels: it covers the blur of doubling
_MARGIN = _SIDE // 2
_EXAMPLES = 1024  # patches, each in its eight orientations
_PRODUCTS = 2**27  # patches of the hole times examples, at most: a bound on the time
_ROWS = 512  # patches compared at a time
_BLOCK = 64  # examples of which the nearest is found at a time
_FLAT = 2 / 127.5  # standard deviation, two grey levels, of patches without detail


@torch.no_grad()
def enlarge(answer: Tensor, image: Tensor, known: Tensor) -> Tensor:
    """Enlarge an answer [C, S, S] to its frame [C, H, W], its edges as sharp as those of the known pixels.

    Known pixels are shrunk to the coarser size and enlarged again: what that loses of a patch is added to each patch of the answer
    that looks like the shrunk one. This is repeated from size to size, each at most twice the one before.
    ``image`` [C, H, W] in [-1, 1] and ``known``, bool [H, W], are the frame's own pixels.
    """
    first, last = _size(answer), _size(image)
    growth = max(last[0] / first[0], last[1] / first[1])
    steps = max(0, math.ceil(math.log2(growth) - 1e-9))
    share, coarser = known[None].to(image.dtype), first
    for step in range(1, steps + 1):
        size = (
            _between(first[0], last[0], step / steps),
            _between(first[1], last[1], step / steps),
        )
        answer = _add_detail(resize(answer, size), *_shrink(image, share, size), coarser)
        coarser = size
    return resize(answer, last)


def resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [C, H, W] by area means where a side shrinks, bilinearly where it grows."""
    height, width = _size(values)
    smaller = min(size[0], height), min(size[1], width)
    if smaller != (height, width):
        values = F.adaptive_avg_pool2d(values, smaller)
    if smaller == size:
        return values
    return F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0]


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _between(small: int, large: int, part: float) -> int:
    return int(small ** (1 - part) * large**part + 0.5)


def _shrink(image: Tensor, share: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the mean of the known pixels under each pixel of a smaller size, and their share [1, h, w]."""
    shrunk = resize(share, size)
    return resize(image * share, size) / shrunk.clamp_min(1e-6), shrunk


def _add_detail(answer: Tensor, image: Tensor, share: Tensor, coarser: tuple[int, int]) -> Tensor:
    """Add to each patch of the answer what shrinking to ``coarser`` loses of the known patch most like it."""
    queries = torch.nonzero(~_all_around(share[0] > 1 - 1e-6) & (_deviation(answer) > _FLAT))
    if not len(queries):
        return answer
    count = min(_EXAMPLES, max(_PRODUCTS // 8 // len(queries), 1))
    looks, details = _examples(image, share, coarser, count)
    weights = _gaussian(answer)
    looks = (_centred(looks) * weights.sqrt()).flatten(1)
    filler = -len(looks) % _BLOCK  # examples that are far from all
    squares = F.pad(looks.square().sum(1), (0, filler), value=math.inf)
    factors = -2 * F.pad(looks.T, (0, filler))
    result = F.pad(answer, [_MARGIN] * 4)
    for part in torch.split(queries, _ROWS):
        wanted = (_centred(_patches(answer, part)) * weights.sqrt()).flatten(1)
        nearest = _argmin((wanted @ factors).add_(squares))
        added = (details[nearest] * weights).permute(1, 0, 2, 3)
        for row in range(_SIDE):
            for column in range(_SIDE):
                result[:, part[:, 0] + row, part[:, 1] + column] += added[:, :, row, column]
    inside = slice(_MARGIN, -_MARGIN)
    return result[:, inside, inside].clamp(-1, 1)


def _argmin(values: Tensor) -> Tensor:
    """Return the place of the first least value of each row; torch's own takes seven times as long as a minimum of blocks."""
    blocks = values.view(len(values), -1, _BLOCK)
    best = blocks.amin(2).argmin(1)
    within: Tensor = blocks[torch.arange(len(best)), best].argmin(1)
    return best * _BLOCK + within


def _examples(
    image: Tensor, share: Tensor, coarser: tuple[int, int], count: int
) -> tuple[Tensor, Tensor]:
    """Return up to ``count`` known patches, shrunk and enlarged again, and what that lost of them, [N, C, 5, 5] each.

    The last example is without detail, for what is as smooth in the answer as in the image.
    """
    size = _size(image)
    coarse, coarse_share = _shrink(image, (share > 1 - 1e-6).to(image.dtype), coarser)
    blurred = resize(coarse, size)
    reliable = resize((coarse_share > 1 - 1e-6).to(image.dtype), size)[0] > 1 - 1e-6
    lost = image - blurred
    middles = torch.nonzero(_all_around(reliable) & (_deviation(lost) > _FLAT))
    order = torch.randperm(len(middles), generator=torch.Generator().manual_seed(0))
    middles = middles[order[:count]]
    blank = image.new_zeros(1, len(image), _SIDE, _SIDE)
    looks, details = (_orientations(_patches(each, middles)) for each in (blurred, lost))
    return torch.cat([looks, blank]), torch.cat([details, blank])


def _patches(image: Tensor, middles: Tensor) -> Tensor:
    """Return the patches [N, C, 5, 5] around pixels [N, 2]; edges are replicated."""
    padded = F.pad(image[None], [_MARGIN] * 4, mode="replicate")[0]
    windows = padded.unfold(1, _SIDE, 1).unfold(2, _SIDE, 1)
    return windows[:, middles[:, 0], middles[:, 1]].transpose(0, 1)


def _orientations(patches: Tensor) -> Tensor:
    """Return patches turned and mirrored, eight for one."""
    turned = [torch.rot90(patches, turns, (2, 3)) for turns in range(4)]
    return torch.cat([*turned, *(each.flip(3) for each in turned)])


def _centred(patches: Tensor) -> Tensor:
    return patches - patches.mean((2, 3), keepdim=True)


def _deviation(image: Tensor) -> Tensor:
    """Return the standard deviation of the patch around each pixel, [H, W]."""
    padded = F.pad(image[None], [_MARGIN] * 4, mode="replicate")
    mean, square = F.avg_pool2d(padded, _SIDE, 1), F.avg_pool2d(padded.square(), _SIDE, 1)
    return (square - mean.square()).clamp_min(0).mean(1)[0].sqrt()


def _all_around(known: Tensor) -> Tensor:
    """Return where the patch around a pixel is known in full, bool [H, W]."""
    missing = (~known)[None].float()
    return F.max_pool2d(missing, _SIDE, 1, _MARGIN)[0] == 0


def _gaussian(like: Tensor) -> Tensor:
    """Return the weights of a patch's pixels, which sum to 1."""
    line = torch.exp(
        -0.5 * (torch.arange(_SIDE, dtype=like.dtype, device=like.device) - _MARGIN) ** 2
    )
    return torch.outer(line, line) / line.sum() ** 2
