"""From images to first spikes: difference-of-Gaussians contrast cells and rank-order latency.

The cells of the retina and the thalamus answer to local contrast, the strongest first
(Kheradpisheh et al. 2018; Mozafari et al. 2019, arXiv:1804.00227):

1. On- and off-centre differences of Gaussians (DoG) of several sizes filter the image.
2. Answers that are too weak are dropped; the others are divided by the mean around them.
3. All that is left of one image is ranked together, and the ranks are split into equally large
   time bins: every cell spikes at most once, and the greater its contrast, the earlier.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Contrasts are ranked as multiples of this. It is far below any difference that matters and far
#: above the rounding errors of float64: contrasts that are equal by symmetry are equal here, so
#: that their order depends neither on the batch nor on the library.
RESOLUTION = 2.0**-20

#: Images that are filtered at a time, so that what is between two operations stays small.
CHUNK = 128


@dataclass(frozen=True)
class Encoding:
    """How images become spikes.

    Attributes:
        windows: odd widths of the DoG filters in pixels. A window of w has standard deviations w/9
            and 2w/9, and both an on-centre and an off-centre filter.
        threshold: the least answer that counts, for pixels in 0 ... 255.
        radius: a cell is compared with the mean of the (2 radius + 1)^2 around it, in pixels.
        bins: the number of time steps.
    """

    windows: tuple[int, ...] = (3, 7, 13)
    threshold: float = 50.0
    radius: int = 8
    bins: int = 15

    def __post_init__(self) -> None:
        """Raise ValueError for a field out of range, naming it."""
        if not self.windows or any(w < 3 or w % 2 == 0 for w in self.windows):
            raise ValueError(f"windows must be odd and at least 3, not {self.windows!r}")
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be >= 0, not {self.threshold!r}")
        if self.radius < 0:
            raise ValueError(f"radius must be >= 0, not {self.radius!r}")
        if not 1 <= self.bins < 256:
            raise ValueError(f"bins must lie in 1 ... 255, not {self.bins!r}")

    @property
    def channels(self) -> int:
        """The number of filters."""
        return 2 * len(self.windows)


class RankOrderEncoder:
    """Maps images of one size to spike times.

    Filters are applied as one matrix product: a convolution of a small image is cheap this way, and
    much faster on a CPU than torch's own in float64.
    """

    def __init__(self, encoding: Encoding, height: int, width: int) -> None:
        self.encoding = encoding
        self.shape = (encoding.channels, height, width)
        pixels = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
        kernels = [difference_of_gaussians(w) for w in encoding.windows]
        #: (pixels, windows * cells): what each pixel does to each on-centre cell
        self.filters = torch.cat(
            [F.conv2d(pixels, k[None, None], padding=len(k) // 2).flatten(1) for k in kernels], 1
        )
        #: The kernel of an off-centre cell is that of the on-centre cell, turned over and scaled.
        self.off_centre = torch.stack([k.min().reciprocal() for k in kernels]).view(-1, 1, 1)
        self.rows, self.columns = (box(n, encoding.radius) for n in (height, width))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the spike times.

        Args:
            images: (N, 1, height, width) in [-1, 1], where -1 is black and 1 is white.

        Returns:
            (N, channels, height, width) uint8: the time bin of each cell's spike, or ``bins`` if
            it never spikes. Channels 2i and 2i + 1 are the on- and off-centre cells of window i.
        """
        return torch.cat([rank_order(self._contrasts(x), self.bins) for x in images.split(CHUNK)])

    @property
    def bins(self) -> int:
        """The number of time steps, and the time that stands for never."""
        return self.encoding.bins

    def _contrasts(self, images: Tensor) -> Tensor:
        """Return locally normalised contrasts (N, channels, height, width), 0 below threshold."""
        pixels = (images.double().flatten(1) + 1) * 127.5
        on = (pixels @ self.filters).view(len(images), -1, *self.shape[1:])
        answers = torch.stack([on, on * self.off_centre], dim=2).flatten(1, 2)
        answers.masked_fill_(answers <= self.encoding.threshold, 0)
        means = self.rows @ answers @ self.columns / (2 * self.encoding.radius + 1) ** 2
        return answers.div_(means).nan_to_num_(nan=0.0)  # 0 / 0: nothing around


def difference_of_gaussians(window: int) -> Tensor:
    """Return an on-centre kernel (window, window) in float64 with mean 0 and maximum 1.

    ``g(sd = window / 9) - g(sd = 2 window / 9)``, where both Gaussians have the same integral.
    """
    x = torch.arange(window, dtype=torch.float64) - window // 2
    squares = x**2 + x[:, None] ** 2
    narrow, wide = (window / 9) ** 2, (2 * window / 9) ** 2
    kernel = (-squares / (2 * narrow)).exp() / narrow - (-squares / (2 * wide)).exp() / wide
    kernel -= kernel.mean()
    return kernel / kernel.max()


def rank_order(contrasts: Tensor, bins: int) -> Tensor:
    """Split the ranks of all contrasts of an image into time bins that are equally large.

    Args:
        contrasts: (N, ...), >= 0. Of n that are not 0, the one with rank r = 0 ... n - 1 spikes at
            ``floor(r bins / n)``; of two that are equal, the one with the smaller index is first.
        bins: the number of time steps.

    Returns:
        (N, ...) uint8: spike times; ``bins`` where the contrast is 0.
    """
    levels = (contrasts.flatten(1) / RESOLUTION).round().long()
    order = levels.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(order.shape[1]).expand_as(order)
    spikes = (levels > 0).sum(dim=1, keepdim=True)
    in_order = torch.where(ranks < spikes, ranks * bins // spikes.clamp(min=1), bins)
    times = torch.empty_like(order, dtype=torch.uint8)
    return times.scatter_(1, order, in_order.to(torch.uint8)).view_as(contrasts)


def box(length: int, radius: int) -> Tensor:
    """Return the matrix (length, length) that sums all places within the radius of each."""
    x = torch.arange(length)
    return ((x - x[:, None]).abs() <= radius).double()
