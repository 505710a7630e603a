"""One entry of the memory bank: how an object is found, kept, replaced, shrunk and placed.

Everything here runs wherever the tensors lie and never makes the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aucseg_hf.errors import InputError


@dataclass
class MemoryEntry:
    """One object, copied from a clean image: its bounding box with a margin, not the whole frame.

    Attributes:
        pixels: uint8, float16 or bfloat16 `[3, h, w]`, see `PixelCodec`. Never written to again.
        mask: bool `[h, w]`, true where the object is. Never written to again.
        top: Row of the box in the frame it came from.
        left: Column of the box in that frame.
        frame: Height and width of that frame.
        uses: How often retrieval has drawn this entry.
    """

    pixels: Tensor
    mask: Tensor
    top: int
    left: int
    frame: tuple[int, int]
    uses: int = 0

    def state_dict(self) -> dict[str, Any]:
        """The attributes as plain tensors on the CPU, integers and lists."""
        return {
            "pixels": self.pixels.cpu(),
            "mask": self.mask.cpu(),
            "top": self.top,
            "left": self.left,
            "frame": list(self.frame),
            "uses": self.uses,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> MemoryEntry:
        """Makes the entry that `state_dict` described."""
        return cls(**{**state, "frame": tuple(state["frame"])})


def draw(count: int, generator: torch.Generator) -> int:
    """Draws a uniform integer in `[0, count)`."""
    return int(torch.randint(count, (), generator=generator))


def _random_victim(entries: Sequence[MemoryEntry], generator: torch.Generator) -> int:
    return draw(len(entries), generator)


def _oldest_victim(entries: Sequence[MemoryEntry], generator: torch.Generator) -> int:
    return 0


def _newest_victim(entries: Sequence[MemoryEntry], generator: torch.Generator) -> int:
    return len(entries) - 1


def _most_used_victim(entries: Sequence[MemoryEntry], generator: torch.Generator) -> int:
    # max() keeps the first of equals, so the oldest goes among the equally used.
    return max(range(len(entries)), key=lambda i: entries[i].uses)


REPLACEMENTS: dict[str, Callable[[Sequence[MemoryEntry], torch.Generator], int]] = {
    "random": _random_victim,
    "fifo": _oldest_victim,
    "lifo": _newest_victim,
    "priority_used": _most_used_victim,
}
"""Which entry of a full memory, ordered from oldest to newest, makes room for a new one."""


class PixelCodec:
    """Turns pixels into a compact dtype and back.

    With the mean and standard deviation that normalised an 8-bit image, pixels are kept as those
    8-bit levels and come back as `(level - 255 mean) / (255 std)` in float32. This is bit for bit
    what the default image processors of transformers compute; another order of the same operations
    differs from it in the last float32 digit. Pixels off the 8-bit grid are rounded to it.

    Without them, half-precision pixels are kept as they are, and wider ones as float16, with a
    relative error of at most 2**-11 (absolute: 0.001 for normalised images).

    Args:
        mean: Three per-channel means of the normalisation, in units of the 0..1 image, or None.
        std: The three standard deviations, or None.

    Raises:
        InputError: If only one of the two is given, or they are not three values with positive std.
    """

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        if (mean is None) != (std is None):
            raise InputError(
                f"expected both image_mean and image_std or none of them, got {mean} and {std}"
            )
        self.mean = None if mean is None else [float(value) for value in mean]
        self.std = None if std is None else [float(value) for value in std]
        if self.mean is None or self.std is None:
            return
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(
                "expected three values of image_mean and three positive ones of image_std, "
                f"got {self.mean} and {self.std}"
            )
        self._shift = torch.tensor(self.mean).view(3, 1, 1) * 255
        self._scale = torch.tensor(self.std).view(3, 1, 1) * 255

    def encode(self, pixels: Tensor) -> Tensor:
        """Returns a compact copy of floating-point pixels `[3, h, w]`."""
        if self.mean is None:
            dtype = pixels.dtype if pixels.dtype.itemsize == 2 else torch.float16
            return pixels.to(dtype, copy=True)
        self._move_to(pixels.device)
        levels = pixels.float() * self._scale + self._shift
        return levels.round_().clamp_(0, 255).to(torch.uint8)

    def decode(self, stored: Tensor) -> Tensor:
        """Returns the float32 pixels `[3, h, w]` of a compact copy."""
        if self.mean is None:
            return stored.float()
        self._move_to(stored.device)
        return (stored.float() - self._shift) / self._scale

    def _move_to(self, device: torch.device) -> None:
        self._shift, self._scale = self._shift.to(device), self._scale.to(device)


def find_boxes(slots: Tensor, num_slots: int) -> Tensor:
    """Finds the bounding box of every wanted class in every image.

    Args:
        slots: int64 `[B, H, W]`, in `[0, num_slots)` for a wanted class and `num_slots` elsewhere.
        num_slots: The number T of wanted classes.

    Returns:
        int32 `[B, T, 5]`: pixel count, top, bottom, left, right, with bottom and right exclusive.
        Where the count is 0 the other values mean nothing.
    """
    batch, height, width = slots.shape
    per_row = torch.zeros(batch, height, num_slots + 1, dtype=torch.int32, device=slots.device)
    per_row.scatter_add_(2, slots, per_row.new_ones(1).expand_as(slots))
    in_column = torch.zeros(batch, width, num_slots + 1, dtype=torch.bool, device=slots.device)
    in_column.scatter_(2, slots.transpose(1, 2), True)
    per_row, in_column = per_row[..., :num_slots], in_column[..., :num_slots]
    count = per_row.sum(1, dtype=torch.int32)
    return torch.stack([count, *_extent(per_row > 0), *_extent(in_column)], dim=-1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last true position along dimension 1 of bool `[B, L, T]`."""
    length = occupied.shape[1]
    # int32, because torch reduces int64 several times slower on the CPU.
    position = torch.arange(length, dtype=torch.int32, device=occupied.device)[:, None]
    first = torch.where(occupied, position, length).amin(1)
    end = torch.where(occupied, position + 1, 0).amax(1)
    return first, end


def margin_for(ratio: float) -> int:
    """Pixels around an object that bilinear shrinking by `ratio` may read.

    The nearest sample of position y is floor(y / ratio), the bilinear ones lie within
    (1 / ratio + 1) / 2 of it; one more covers rounding. Nothing is read at ratio 1.
    """
    return 0 if ratio == 1 else math.ceil((1 / ratio + 1) / 2) + 1


def shrunk_size(length: int, ratio: float) -> int:
    """Length of a frame side after resizing: `floor(length * ratio)`, and at least one pixel."""
    return max(1, math.floor(length * ratio))


def shrink(
    pixels: Tensor, mask: Tensor, top: int, left: int, frame: tuple[int, int], ratio: float
) -> tuple[Tensor, Tensor, int, int]:
    """Resizes a box as resizing the whole frame around it would.

    The result is the part of `torch.nn.functional.interpolate(frame, scale_factor=ratio)` that the
    box reaches: bilinear with `align_corners=False` and no antialiasing for the image, nearest for
    the mask. As in a whole frame, an object thinner than the sampling step can vanish.

    Args:
        pixels: float32 `[3, h, w]`, the box with `margin_for(ratio)` pixels around the object
            wherever the frame has them.
        mask: bool `[h, w]`.
        top: Row of the box in the frame.
        left: Column of the box in the frame.
        frame: Height and width of the frame.
        ratio: Resize ratio in (0, 1).

    Returns:
        Pixels `[3, h', w']`, mask `[h', w']`, and the row and column of both in the shrunken frame.
    """
    height, width = mask.shape
    top, row, above, below, down = _taps(top, height, frame[0], ratio, mask.device)
    left, column, before, after, right = _taps(left, width, frame[1], ratio, mask.device)
    rows = torch.lerp(pixels[:, above], pixels[:, below], down[:, None])
    pixels = torch.lerp(rows[:, :, before], rows[:, :, after], right)
    return pixels, mask[row][:, column], top, left


def _taps(
    start: int, length: int, frame_length: int, ratio: float, device: torch.device
) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    """Source positions, along one axis, of the shrunken positions that a box reaches.

    Returns the first shrunken position; for each one the nearest source and the two bilinear
    sources, relative to the box; and the weight of the second of the two.
    """
    first = max(0, math.floor(start * ratio) - 1)
    end = min(shrunk_size(frame_length, ratio), math.floor((start + length) * ratio) + 2)
    # float32, as in torch's kernels, so that positions are rounded the same way.
    target = torch.arange(first, end, dtype=torch.float32, device=device)
    source = ((target + 0.5) * (1 / ratio) - 0.5).clamp_(min=0)
    low = source.floor()

    def in_box(position: Tensor) -> Tensor:
        # The clamp moves only positions outside the frame or too far from the mask to matter.
        return (position - start).clamp_(0, length - 1).long()

    nearest = (target * (1 / ratio)).floor()
    return first, in_box(nearest), in_box(low), in_box(low + 1), source - low


def fit_inside(start: int, length: int, limit: int) -> tuple[slice, slice]:
    """Moves `[start, start + length)` by the shortest way into `[0, limit)`, or clips it if longer.

    Returns:
        The slice of the target, and the slice of the source that fills it.
    """
    room = limit - length
    start = min(max(start, min(0, room)), max(0, room))
    skipped = max(0, -start)
    kept = min(length, limit)
    return slice(start + skipped, start + skipped + kept), slice(skipped, skipped + kept)
