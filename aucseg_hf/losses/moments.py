"""The single sweep over the pixels: cross-entropy, AUC sums and gradient maps, chunk by chunk.

Each chunk of full-resolution rows is upsampled from the low-resolution logits, used for everything
and thrown away; its gradients are pulled back to low resolution at once. Full-resolution logits
never exist as a whole, and nothing is computed twice.

The AUC gradient has coefficients, one per class, that are known only after the last pixel. It is
linear in them, so the sweep pulls back the functions they multiply (see `SweepResult`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from aucseg_hf.losses.inputs import Batches
from aucseg_hf.losses.plan import SweepPlan, SweepResult
from aucseg_hf.losses.upsampling import Axis, Window

# Largest elements [rows, C, W] and pixels [rows, W] of a chunk: large enough to hide the dispatch
# and the rows shared by neighbouring chunks, small enough for the caches of a CPU. A GPU has no
# such cache and a dearer dispatch.
_CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 23}
_CHUNK_PIXELS = {"cpu": 1 << 14, "cuda": 1 << 22}
_COLUMN_STEP = 128
_LOG2_E = math.log2(math.e)
# Up to this |logit|, exp() needs no shift: neither it nor its sum over classes can overflow, and
# the softmax of no class underflows.
_SAFE_LOGIT = {
    torch.float16: 38.0,
    torch.bfloat16: 38.0,
    torch.float32: 38.0,
    torch.float64: 300.0,
}


def sweep(batches: Batches, plan: SweepPlan) -> SweepResult:
    """Sweeps over all micro-batches of this process.

    Args:
        batches: pairs of logits [B,C,h,w] and labels [B,H,W] with checked ids.
        plan: what to compute.

    Returns:
        Sums and gradient maps; the maps have the dtype of the logits, but float32 at least.
    """
    result = SweepResult.zeros(batches, plan)
    if plan.is_empty:
        return result
    for index, (logits, labels) in enumerate(batches):
        if labels.numel():
            _Sweep(logits, labels, plan, result, index).run()
    return result


def is_bounded(logits: Tensor) -> bool:
    """Whether no logit, upsampled or not, needs a shift before exp()."""
    limit = _SAFE_LOGIT[logits.dtype]
    low, high = logits.aminmax()
    return -limit < low.item() and high.item() < limit


class _Pixels(NamedTuple):
    """Labels of a chunk and what follows from them, each [rows, 1, W].

    Attributes:
        ids: class ids, C for void, flat int64.
        ranks: position of the class in the order of the sweep; 0 for void.
    """

    ids: Tensor
    ranks: Tensor

    def look_up(self, table: Tensor) -> Tensor:
        """Entries of a table [C+1] for every pixel."""
        return table.index_select(0, self.ids).view(self.ranks.shape)


class _Activations(NamedTuple):
    """Functions of the logits of a chunk.

    Attributes:
        powers: exp(z - shift), [rows, C, W].
        total: their sum over the classes, [rows, 1, W].
        surprise: -log softmax of the pixel's own class, [rows, 1, W].
        log_total: log-sum-exp of the logits, [rows, 1, W].
        scores: sigmoid(z) of the present classes, [rows, P, W].
        complements: sigmoid(-z), [rows, P, W].
    """

    powers: Tensor
    total: Tensor
    surprise: Tensor
    log_total: Tensor
    scores: Tensor
    complements: Tensor


class _Sweep:
    """The sweep over one micro-batch, adding to `result`."""

    def __init__(
        self, logits: Tensor, labels: Tensor, plan: SweepPlan, result: SweepResult, index: int
    ) -> None:
        self.logits, self.labels, self.plan, self.result = logits, labels, plan, result
        self.index = index
        self.place = {"dtype": result.base[0].dtype, "device": logits.device}
        self.order = plan.order(logits.device)
        self.bounded = is_bounded(logits)
        self.buffers = {}
        self._make_tables()

    def _make_tables(self) -> None:
        """Factors by class id, with void pixels at index C."""
        plan, classes = self.plan, self.plan.num_classes
        self.rank_of = torch.zeros(classes + 1, dtype=torch.int64, device=self.logits.device)
        self.rank_of[self.order] = torch.arange(classes, device=self.logits.device)
        self.valid_of = torch.ones(classes + 1, **self.place)
        self.valid_of[classes] = 0
        if plan.cross_entropy is not None:
            self.pixel_of = torch.zeros(classes + 1, **self.place)
            self.pixel_of[:classes] = plan.cross_entropy.pixel
        if plan.pairing is not None:
            self.positive_of = torch.zeros(classes + 1, **self.place)
            self.positive_of[plan.pairing.present] = plan.pairing.positive_weight.to(**self.place)
            self.negative_of = self.positive_of
            self.column_scale = None
            if plan.pairing.negative_weight is not None:
                self.column_scale = plan.pairing.negative_weight.to(**self.place)[:, None]
                self.negative_of = self.valid_of

    def run(self) -> None:
        """Sweeps over chunks of rows, of several images where whole images fit into a chunk."""
        batch, classes, height, width = self.logits.shape
        rows, columns = self.labels.shape[-2:]
        kind = "cpu" if self.logits.device.type == "cpu" else "cuda"
        pixels = min(_CHUNK_PIXELS[kind], _CHUNK_ELEMENTS[kind] // classes)
        step = max(1, pixels // columns)
        images = max(1, step // rows)
        self.across = Axis(width, columns, _COLUMN_STEP, **self.place)
        down = Axis(height, rows, min(step, rows), **self.place)
        for first in range(0, batch, images):
            for window in down.windows:
                self._chunk(slice(first, min(first + images, batch)), window)

    def _chunk(self, images: slice, window: Window) -> None:
        pixels = self._pixels(self.labels[images, window.start : window.stop])
        values = self._activate(self._upsample(images, window), pixels)
        count, classes, width = values.powers.shape
        mapped = self.plan.mapped_columns
        maps = self._buffer("maps", count, classes + 2 * mapped, width)
        base, pull, push = maps.split([classes, mapped, mapped], dim=1)
        own = torch.zeros(count, 1, width, **self.place)
        if self.plan.cross_entropy is None:
            base.zero_()
        else:
            self._add_cross_entropy(values, pixels, base, own)
        if self.plan.pairing is not None:
            self._add_auc(values, pixels, (base, pull, push), own)
        base.scatter_add_(1, pixels.ranks, own)
        self._pull_back(maps, images, window)

    def _buffer(self, name: str, *shape: int) -> Tensor:
        """Uninitialised memory that is reused by every chunk.

        Fresh memory of this size would go back to the system after each chunk, and its page faults
        would cost more than the arithmetic.
        """
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = torch.empty(size, **self.place)
        return self.buffers[name][:size].view(shape)

    def _pixels(self, labels: Tensor) -> _Pixels:
        ids = labels.flatten(0, 1).long()
        ids = ids.masked_fill(ids == self.plan.ignore_index, self.plan.num_classes)
        ranks = self.rank_of.index_select(0, ids.flatten()).view(ids.shape)
        return _Pixels(ids.flatten(), ranks[:, None])

    def _upsample(self, images: slice, window: Window) -> Tensor:
        """Logits of the chunk in the order of the sweep, [images * rows, C, W].

        Bounded ones come in units of log 2, because exp2() is faster than exp().
        """
        rows = self.logits[images, :, window.low : window.high].movedim(2, 1)
        rows = rows.to(self.place["dtype"]).index_select(2, self.order)
        count, taps, classes, width = rows.shape
        wide = self.across.upsample_rows(rows.reshape(-1, width)).view(count, taps, -1)
        matrix = window.matrix * _LOG2_E if self.bounded else window.matrix
        z = self._buffer("z", count, len(matrix), wide.shape[-1])
        return torch.matmul(matrix, wide, out=z).view(-1, classes, self.across.outputs)

    def _pull_back(self, maps: Tensor, images: slice, window: Window) -> None:
        """Adds the transposed upsampling of the maps [images * rows, channels, W]."""
        rows, channels, width = window.stop - window.start, *maps.shape[1:]
        wide = torch.matmul(window.matrix.t(), maps.view(-1, rows, channels * width))
        low = self.across.pull_back_rows(wide.view(-1, width))
        low = low.view(wide.shape[0], -1, channels, self.across.inputs).movedim(1, 2)
        classes, mapped = self.plan.num_classes, self.plan.mapped_columns
        base, pull, push = low.split([classes, mapped, mapped], dim=1)
        inside = (images, slice(None), slice(window.low, window.high))
        self.result.base[self.index][inside].index_add_(1, self.order, base)
        self.result.pull[self.index][inside].add_(pull)
        self.result.push[self.index][inside].add_(push)

    def _activate(self, z: Tensor, pixels: _Pixels) -> _Activations:
        present = z[:, : self.plan.columns]
        if self.bounded:
            powers = z.exp2_()
            complements = torch.add(present, 1, out=self._buffer("complements", *present.shape))
            scores = torch.mul(
                present, complements.reciprocal_(), out=self._buffer("scores", *present.shape)
            )
            total = powers.sum(1, keepdim=True)
            surprise = (total / powers.gather(1, pixels.ranks)).log_()
            return _Activations(powers, total, surprise, total.log(), scores, complements)
        scores, complements = present.sigmoid(), (-present).sigmoid()
        peak = z.amax(1, keepdim=True)
        # Differences of extreme logits overflow float32, but not float64.
        gap = peak.double() - z.gather(1, pixels.ranks)
        powers = z.sub_(peak).exp_()
        total = powers.sum(1, keepdim=True)
        log_total = total.double().log()
        return _Activations(powers, total, log_total + gap, log_total + peak, scores, complements)

    def _add_cross_entropy(
        self, values: _Activations, pixels: _Pixels, base: Tensor, own: Tensor
    ) -> None:
        """Adds the value; puts the gradient into `base`, that of the own class apart into `own`."""
        terms = self.plan.cross_entropy
        weight = pixels.look_up(self.pixel_of)
        self.result.ce += (weight * values.surprise).sum(dtype=torch.float64)
        own.sub_(weight, alpha=terms.scale)
        if terms.spread:
            spread = terms.spread * pixels.look_up(self.valid_of)
            self.result.ce += (spread * values.log_total).sum(dtype=torch.float64)
            weight = weight + spread
        torch.mul(values.powers, weight * terms.scale / values.total, out=base)

    def _add_auc(
        self, values: _Activations, pixels: _Pixels, maps: tuple[Tensor, ...], own: Tensor
    ) -> None:
        """Adds the sums and the gradient maps of the AUC."""
        base, pull, push = maps
        surrogate, ranks = self.plan.surrogate, pixels.ranks
        pairing = self.plan.pairing
        scale = self.plan.auc_scale / pairing.normalizer
        weight = pixels.look_up(self.positive_of)

        score = values.scores.gather(1, ranks)
        slope = score * values.complements.gather(1, ranks) * weight
        positive = surrogate.positive(score)
        own += scale * pairing.total * slope * positive.additive_slope
        self._add_by_class(self.result.positive[0], pixels, weight * positive.additive)

        # No pixel is a negative of its own class.
        scores = values.scores.scatter_(1, ranks, 0.0)
        as_negative = pixels.look_up(self.negative_of)
        negative = surrogate.negative(scores)
        slopes = values.complements.mul_(scores).mul_(as_negative)
        if self.column_scale is not None:
            slopes.mul_(self.column_scale)
        base[:, : self.plan.columns].addcmul_(slopes, negative.additive_slope, value=scale)
        self._add_by_column(self.result.negative[0], negative.additive * as_negative)
        if surrogate.has_product:
            torch.mul(slopes, negative.product_slope, out=pull)
            push.zero_().scatter_(1, ranks, slope * positive.product_slope)
            self._add_by_class(self.result.positive[1], pixels, weight * positive.product)
            self._add_by_column(self.result.negative[1], negative.product * as_negative)

    def _add_by_class(self, sums: Tensor, pixels: _Pixels, values: Tensor) -> None:
        """Adds values [rows, 1, W] to the sums [P] of the pixels' own classes."""
        sums.index_add_(0, pixels.ranks.flatten(), values.flatten().double())

    def _add_by_column(self, sums: Tensor, values: Tensor) -> None:
        """Adds values [rows, P, W], times the weight of the column, to sums [P]."""
        column = values.sum(2).sum(0, dtype=torch.float64)
        if self.column_scale is not None:
            column = column * self.plan.pairing.negative_weight
        sums += column
