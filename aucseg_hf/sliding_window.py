"""Windows that slide over an image, and the blending of their logits in bounded memory.

Along each side the weights of the windows are Gaussians around their centres, divided by their sum:
every pixel's weights add up to 1, and a pixel that one window sees takes its logits as they are.
The weight of a window at a pixel is the product of its two sides' weights, so nothing has to be
counted in two dimensions.

Logits stay at the model's resolution. They are upsampled, blended and decided cell by cell, a cell
being the pixels between the first rows and columns of neighbouring windows; a window's logits are
dropped, row by row, as soon as the cells below it cannot need them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np
import torch

# Scores decided at once: 16 MB of float32, and a few times that for what is computed on the way.
_MOST_SCORES = 2**22
# nnU-Net's choice (Isensee et al., 2021): a weight of exp(-8) at the edge of a window.
_WINDOWS_PER_SIGMA = 8


@dataclass(frozen=True)
class Axis:
    """The windows along one side of an image.

    The model may see the image at another scale than the one decisions are made at: pixel p of the
    native image has its centre at (p + 1/2) * scaled / length in the scaled one.

    Attributes:
        length: The side in native pixels.
        scaled: The side in scaled pixels.
        window: Side of a window in scaled pixels, at most `scaled`.
        starts: First scaled pixel of every window, ascending; the last window ends with the image.
    """

    length: int
    scaled: int
    window: int
    starts: tuple[int, ...]

    @classmethod
    def plan(
        cls, length: int, scale: float, window: int | None = None, stride: int | None = None
    ) -> "Axis":
        """Lays windows along a side.

        Args:
            length: The side in native pixels.
            scale: Scaled pixels a native pixel.
            window: Side of the windows in scaled pixels; None for one over the whole side.
            stride: Step between windows in scaled pixels, shortened where it would leave a gap.
        """
        scaled = max(1, round(length * scale))
        window = min(window or scaled, scaled)
        last = scaled - window
        return cls(length, scaled, window, (*range(0, last, min(stride or window, window)), last))

    @cached_property
    def spans(self) -> list[range]:
        """The native pixels whose centre lies in each window."""

        def first_from(edge: int) -> int:
            # The smallest p with (p + 1/2) * scaled / length >= edge, in integers.
            return -((self.scaled - 2 * edge * self.length) // (2 * self.scaled))

        return [range(first_from(s), first_from(s + self.window)) for s in self.starts]

    @cached_property
    def weights(self) -> list[torch.Tensor]:
        """Weight of each window at the pixels of its span, float64; they add up to 1 at a pixel."""
        sigma = self.window / _WINDOWS_PER_SIGMA
        raw = []
        total = torch.zeros(self.length, dtype=torch.float64)
        for index, span in enumerate(self.spans):
            offset = (self._position(index, span) - self.window / 2) / sigma
            raw.append(torch.exp(-0.5 * offset**2))
            total[span.start : span.stop] += raw[-1]
        return [
            weight / total[span.start : span.stop]
            for weight, span in zip(raw, self.spans, strict=True)
        ]

    @property
    def cells(self) -> list[range]:
        """Native pixels between the first pixels of neighbouring windows."""
        edges = sorted({span.start for span in self.spans} | {self.length})
        return [range(start, stop) for start, stop in pairwise(edges)]

    def covering(self, pixels: range) -> Iterator[tuple[int, range]]:
        """Gives each window that sees some of the pixels, with the pixels it sees."""
        for index, span in enumerate(self.spans):
            seen = range(max(pixels.start, span.start), min(pixels.stop, span.stop))
            if seen:
                yield index, seen

    def taps(
        self, index: int, pixels: range, size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What pixels read of a window's logits: bilinear interpolation times blending weights.

        Args:
            index: Which window.
            pixels: Native pixels within its span.
            size: Side of the window's logits.

        Returns:
            Lower and upper logit of every pixel (int64) and the weight of each (float32).
        """
        # In single precision as torch.nn.functional.interpolate does, to decide as it would.
        step = torch.tensor(size / self.window, dtype=torch.float32)
        position = self._position(index, pixels).float() * step - 0.5
        position.clamp_(0, size - 1)
        lower = position.long()
        upper = (lower + 1).clamp_(max=size - 1)
        fraction = position - lower
        first = self.spans[index].start
        weight = self.weights[index][pixels.start - first : pixels.stop - first].float()
        return lower, upper, (1 - fraction) * weight, fraction * weight

    def _position(self, index: int, pixels: range) -> torch.Tensor:
        """Centres of native pixels, in scaled pixels from the start of a window, float64."""
        centres = torch.arange(pixels.start, pixels.stop, dtype=torch.float64) + 0.5
        return centres * (self.scaled / self.length) - self.starts[index]


@dataclass
class _WindowLogits:
    """Logits [G, K, h, w] of a window; the first `dropped` of its `height` rows are gone."""

    values: torch.Tensor
    height: int
    dropped: int = 0


class BlendedLogits:
    """Blended logits of G images of one size, at one scale, one way round.

    Args:
        logits_of: Given (top, left) of n windows in scaled pixels, runs the model on them and
            gives float32 logits [n, G, K, h, w].
        rows: The windows along the height.
        columns: The windows along the width.
        batch_size: Number of windows to ask for at once.
    """

    def __init__(
        self,
        logits_of: Callable[[list[tuple[int, int]]], torch.Tensor],
        rows: Axis,
        columns: Axis,
        batch_size: int,
    ) -> None:
        self.rows, self.columns = rows, columns
        self._logits_of, self._batch_size = logits_of, batch_size
        self._kept: dict[tuple[int, int], _WindowLogits] = {}

    def logits(self, rows: range, columns: range) -> torch.Tensor:
        """Blends the logits of a rectangle of native pixels.

        Rectangles have to be asked for in reading order of the cells.

        Returns:
            float32 [G, K, len(rows), len(columns)].
        """
        total: torch.Tensor | None = None
        for i, seen_rows in self.rows.covering(rows):
            for j, seen_columns in self.columns.covering(columns):
                window = self._window(i, j)
                lower, upper, *weights = self.rows.taps(i, seen_rows, window.height)
                first, last = int(lower[0]), int(upper[-1])
                values = window.values[:, :, first - window.dropped : last + 1 - window.dropped]
                part = _interpolate(values, 3, self.columns.taps(j, seen_columns, values.shape[3]))
                part = _interpolate(part, 2, (lower - first, upper - first, *weights))
                if total is None:
                    total = part.new_zeros((*part.shape[:2], len(rows), len(columns)))
                total[
                    ...,
                    seen_rows.start - rows.start : seen_rows.stop - rows.start,
                    seen_columns.start - columns.start : seen_columns.stop - columns.start,
                ] += part
        return total

    def forget(self, row: int, column: int) -> None:
        """Drops what only pixels above `row` need, of the windows that end left of `column`."""
        for (i, j), window in list(self._kept.items()):
            if self.columns.spans[j].stop > column:
                continue
            if self.rows.spans[i].stop <= row:
                del self._kept[i, j]
            elif self.rows.spans[i].start < row:
                lowest = int(self.rows.taps(i, range(row, row + 1), window.height)[0])
                window.values = window.values[:, :, lowest - window.dropped :].clone()
                window.dropped = lowest

    def _window(self, i: int, j: int) -> _WindowLogits:
        if (i, j) not in self._kept:
            lefts = self.columns.starts[j : j + self._batch_size]
            logits = self._logits_of([(self.rows.starts[i], left) for left in lefts])
            for offset, values in enumerate(logits):
                self._kept[i, j + offset] = _WindowLogits(values, values.shape[2])
        return self._kept[i, j]


def _interpolate(values: torch.Tensor, dim: int, taps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Weighted sum of the two values along `dim` that every output pixel reads."""
    lower, upper, lower_weight, upper_weight = (tap.to(values.device) for tap in taps)
    shape = [-1 if d == dim else 1 for d in range(4)]
    result = values.index_select(dim, lower).mul_(lower_weight.view(shape))
    return result.addcmul_(values.index_select(dim, upper), upper_weight.view(shape))


def decide(
    views: Sequence[BlendedLogits], confidence: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Gives every pixel the class of the highest score.

    The scores are the logits of a single view, whose softmax could only make ties, or the mean
    softmax of several.

    Args:
        views: Views of the same G images.
        confidence: Whether to compute the softmax probability of the chosen class too.

    Returns:
        Class ids [G, H, W], uint8 (uint16 from 256 classes on), and probabilities [G, H, W],
        float16, or None.
    """
    height, width = views[0].rows.length, views[0].columns.length
    count, num_labels = views[0].logits(range(1), range(1)).shape[:2]
    # Id 255 would read as void.
    labels = np.empty((count, height, width), np.uint8 if num_labels <= 255 else np.uint16)
    sure = np.empty(labels.shape, np.float16) if confidence else None
    for cell_rows, columns in product(views[0].rows.cells, views[0].columns.cells):
        step = max(1, _MOST_SCORES // (count * num_labels * len(columns)))
        for start in cell_rows[::step]:
            rows = range(start, min(start + step, cell_rows.stop))
            scores = _scores(views, rows, columns)
            top, ids = scores.max(dim=1)
            area = np.s_[:, rows.start : rows.stop, columns.start : columns.stop]
            labels[area] = ids.cpu().numpy()
            if sure is not None:
                if len(views) == 1:
                    top = scores.sub_(top.unsqueeze(1)).exp_().sum(dim=1).reciprocal_()
                sure[area] = top.cpu().numpy()
        for view in views:
            view.forget(cell_rows.stop, columns.stop)
    return labels, sure


def _scores(views: Sequence[BlendedLogits], rows: range, columns: range) -> torch.Tensor:
    if len(views) == 1:
        return views[0].logits(rows, columns)
    total = views[0].logits(rows, columns).softmax(dim=1)
    for view in views[1:]:
        total += view.logits(rows, columns).softmax(dim=1)
    return total.div_(len(views))
