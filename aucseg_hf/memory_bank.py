"""The tail-class memory bank: objects of rare classes, remembered and pasted where they lack.

This is the T-Memory Bank of AUCSeg (Han et al., NeurIPS 2024, arXiv 2409.20398). It needs torch
alone, works wherever the batch lies, and fits any training loop:

    bank = TailMemoryBank(tail_classes=[6, 12, 14], seed=0)
    for pixel_values, labels in loader:
        pixel_values, labels = bank(pixel_values, labels)
        ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aucseg_hf.bank_checks import (
    check_batch,
    check_state,
    checked_classes,
    checked_count,
    checked_ratio,
)
from aucseg_hf.errors import InputError, check_choice
from aucseg_hf.memory_entry import (
    REPLACEMENTS,
    MemoryEntry,
    PixelCodec,
    draw,
    find_boxes,
    fit_inside,
    margin_for,
    shrink,
    shrunk_size,
)

SCOPES = ("image", "batch")


class TailMemoryBank:
    """Remembers objects of the tail classes and pastes them into images that lack them.

    One call takes a batch and returns a new one, in two steps, always in this order:

    1. Store. Each image, in batch order, gives the memory of each tail class it contains a copy of
       that class's bounding box and mask. A memory holds `memory_size` entries; then `replacement`
       names the entry that makes room. Entries are always cut from the batch as it came in.
    2. Retrieve. For each image, `ceil(|missing| * sample_ratio)` of its missing tail classes are
       drawn; for each of them with a non-empty memory, one entry is drawn uniformly and pasted:
       the pixels of its mask overwrite image and label, void included. An image may thus get an
       object that another image of the same batch has just given. Where two pasted objects
       overlap, the one drawn first is in front.

    With `resize_ratio` 1 an object is pasted where it was in its frame. Below 1 the frame is shrunk
    (see `aucseg_hf.memory_entry.shrink`) and placed uniformly at random inside the image. When
    frame and image differ in size, an object that would leave the image is moved back by the
    shortest way, and clipped if it is larger than the image.

    All randomness comes from one CPU generator of the bank, so the same calls give the same batches
    on every device. A call waits for the device once. Every rank has its own bank; with
    `scope="batch"` all ranks must call theirs together.

    Args:
        tail_classes: Ids of the tail classes.
        memory_size: S_M, entries kept per class.
        sample_ratio: R_S in (0, 1], share of the missing classes that is drawn for an image.
        resize_ratio: R_R in (0, 1], size of a pasted object relative to the stored one.
        replacement: "random", "fifo", "lifo" or "priority_used" (the most used entry goes first,
            the oldest among equals).
        ignore_index: The void label, which is never a tail class.
        seed: Seed of the bank's generator; give each rank its own.
        scope: "image": a class is missing when this image lacks it, as in the published code.
            "batch": only when every image of the batch, over all ranks, lacks it.
        min_pixels: Objects with fewer pixels in the image are not stored.
        num_labels: Number of classes; when given, tail classes are checked against it.
        process_group: Ranks that share a batch when `scope="batch"`; None means all of them.
        image_mean: Mean that normalised the 8-bit images. With `image_std`, entries take 4 bytes
            a pixel instead of 7 and restore 8-bit images exactly, see `PixelCodec`.
        image_std: Standard deviation that normalised the 8-bit images.

    Raises:
        InputError: If an option is out of its range.
    """

    def __init__(
        self,
        tail_classes: Iterable[int],
        memory_size: int = 5,
        sample_ratio: float = 1.0,
        resize_ratio: float = 1.0,
        replacement: str = "random",
        ignore_index: int = 255,
        seed: int = 0,
        *,
        scope: str = "image",
        min_pixels: int = 1,
        num_labels: int | None = None,
        process_group: dist.ProcessGroup | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
    ) -> None:
        self.tail_classes = checked_classes(tail_classes, ignore_index, num_labels)
        self.memory_size = checked_count("memory_size", memory_size)
        self.sample_ratio = checked_ratio("sample_ratio", sample_ratio)
        self.resize_ratio = checked_ratio("resize_ratio", resize_ratio)
        self.replacement = check_choice("replacement", replacement, REPLACEMENTS)
        self.ignore_index = ignore_index
        self.scope = check_choice("scope", scope, SCOPES)
        self.min_pixels = checked_count("min_pixels", min_pixels)
        self.process_group = process_group
        self._codec = PixelCodec(image_mean, image_std)
        self._generator = torch.Generator().manual_seed(seed)
        # Ordered from oldest to newest, which is all that the replacement rules need to know.
        self._memory: dict[int, list[MemoryEntry]] = {c: [] for c in self.tail_classes}
        self._pasted: list[tuple[int, Tensor]] = []
        # The slot of each label, shifted by one: the two ends stand for labels below and above.
        num_slots = len(self.tail_classes)
        self._slot_of_label = torch.full((self.tail_classes[-1] + 3,), num_slots)
        self._slot_of_label[torch.tensor(self.tail_classes) + 1] = torch.arange(num_slots)

    @classmethod
    def all_classes(cls, num_labels: int, **options: Any) -> TailMemoryBank:
        """Builds the bank of all classes that the paper compares with (its PMB).

        Args:
            num_labels: Number of classes; each of them but `ignore_index` becomes a "tail" class.
            **options: Any other argument of the class.
        """
        ignore_index = options.get("ignore_index", 255)
        classes = [c for c in range(num_labels) if c != ignore_index]
        return cls(classes, num_labels=num_labels, **options)

    @torch.no_grad()
    def __call__(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the tail classes of a batch, then pastes missing ones into a copy of it.

        Args:
            pixel_values: Floating-point `[B, 3, H, W]`, any memory format; not changed.
            labels: Integer `[B, H, W]` on the same device; not changed.

        Returns:
            New pixel values and labels of the same shapes, dtypes and memory format.

        Raises:
            InputError: If shapes, dtypes or devices do not fit.
        """
        check_batch(pixel_values, labels, self.tail_classes[-1])
        self._slot_of_label = self._slot_of_label.to(labels.device)
        index = labels.long().clamp(-1, len(self._slot_of_label) - 2).add_(1)
        boxes = find_boxes(torch.take(self._slot_of_label, index), len(self.tail_classes))
        missing = self._missing(boxes[..., 0] > 0)
        # The only point where the host waits for the device.
        summary = torch.cat([boxes, missing[..., None]], dim=-1).tolist()
        for image, label, found in zip(pixel_values, labels, summary, strict=True):
            self._store(image, label, found)
        pixel_values, labels = pixel_values.clone(), labels.clone()
        self._pasted = []
        for image, label, found in zip(pixel_values, labels, summary, strict=True):
            lacking = [c for c, row in zip(self.tail_classes, found, strict=True) if row[-1]]
            self._retrieve(image, label, lacking)
        return pixel_values, labels

    def __len__(self) -> int:
        """Number of entries over all classes."""
        return sum(self.fill.values())

    @property
    def fill(self) -> dict[int, int]:
        """Number of entries of each tail class."""
        return {c: len(entries) for c, entries in self._memory.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all stored pixels and masks."""
        entries = [entry for memory in self._memory.values() for entry in memory]
        return sum(entry.pixels.nbytes + entry.mask.nbytes for entry in entries)

    @property
    def last_pasted(self) -> dict[int, int]:
        """Pixels of the last returned batch that came from the bank, for each class pasted.

        The counts stay on the device until this is read.
        """
        totals: dict[int, int] = {}
        if self._pasted:
            counts = torch.stack([count for _, count in self._pasted]).tolist()
            for (c, _), count in zip(self._pasted, counts, strict=True):
                totals[c] = totals.get(c, 0) + count
        return totals

    def crops(self, class_id: int) -> list[tuple[Tensor, Tensor]]:
        """Returns the entries of a class, oldest first: float32 `[3, h, w]` and mask `[h, w]`."""
        return [(self._codec.decode(e.pixels), e.mask.clone()) for e in self._memory[class_id]]

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that decides the next batch, loadable with `weights_only=True`.

        Returns:
            "config": the options that give the state its meaning; "memory": for each class its
            entries on the CPU, oldest first, with their use counters; "generator": its state.
        """
        return {
            "config": self._config(),
            "memory": {c: [e.state_dict() for e in self._memory[c]] for c in self.tail_classes},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; the next calls are then bit for bit the same.

        Args:
            state: The state of a bank with the same options; seed and num_labels may differ.

        Raises:
            InputError: If it is not such a state, or was made with other options.
        """
        check_state(state, self._config())
        self._generator.set_state(state["generator"].cpu())
        self._memory = {
            c: [MemoryEntry.from_state_dict(entry) for entry in state["memory"][c]]
            for c in self.tail_classes
        }

    @staticmethod
    def redistribute(states: Sequence[dict[str, Any]], world_size: int) -> list[dict[str, Any]]:
        """Deals the states of all ranks of an earlier run to another number of ranks.

        For each class, the entries of all old ranks, newest first, go to the new ranks in turn
        until each holds `memory_size`. The new generators are seeded from the first old one.

        Args:
            states: The `state_dict` of every old rank, in rank order.
            world_size: Number of new ranks.

        Returns:
            One state for each new rank.

        Raises:
            InputError: If there is no state or no rank, or the states' options differ.
        """
        if not states or world_size < 1:
            raise InputError(
                "expected at least one old state and one new rank, "
                f"got {len(states)} states and world_size={world_size}"
            )
        for state in states:
            check_state(state, states[0].get("config", {}))
        config = states[0]["config"]
        parent = torch.Generator()
        parent.set_state(states[0]["generator"].cpu())
        memories: list[dict[int, list[dict[str, Any]]]] = [{} for _ in range(world_size)]
        for slot, c in enumerate(config["tail_classes"]):
            pool = _newest_first([state["memory"][c] for state in states])
            for rank, memory in enumerate(memories):
                # Starting at another rank for each class spreads classes with a single entry.
                mine = pool[(rank - slot) % world_size :: world_size][: config["memory_size"]]
                memory[c] = [dict(entry) for entry in reversed(mine)]
        seeds = torch.randint(2**62, (world_size,), generator=parent).tolist()
        return [
            {
                "config": dict(config),
                "memory": memory,
                "generator": torch.Generator().manual_seed(seed).get_state(),
            }
            for memory, seed in zip(memories, seeds, strict=True)
        ]

    def _store(self, image: Tensor, label: Tensor, found: list[list[int]]) -> None:
        """Copies each tail class of one clean image into its memory."""
        margin = margin_for(self.resize_ratio)
        height, width = label.shape
        for c, (count, top, bottom, left, right, _) in zip(self.tail_classes, found, strict=True):
            if count < self.min_pixels:
                continue
            top, left = max(0, top - margin), max(0, left - margin)
            rows = slice(top, min(height, bottom + margin))
            columns = slice(left, min(width, right + margin))
            pixels = self._codec.encode(image[:, rows, columns])
            mask = label[rows, columns] == c
            entries = self._memory[c]
            if len(entries) == self.memory_size:
                del entries[REPLACEMENTS[self.replacement](entries, self._generator)]
            entries.append(MemoryEntry(pixels, mask, top, left, (height, width)))

    def _retrieve(self, image: Tensor, label: Tensor, missing: list[int]) -> None:
        """Pastes drawn entries of the missing classes into one image, in place."""
        # Without the small term 100 * 0.07 = 7.000000000000001 would be rounded up to 8.
        wanted = math.ceil(len(missing) * self.sample_ratio - 1e-9)
        order = torch.randperm(len(missing), generator=self._generator).tolist()
        free = torch.ones_like(label, dtype=torch.bool)
        for c in (missing[i] for i in order[:wanted]):
            entries = self._memory[c]
            if entries:
                entry = entries[draw(len(entries), self._generator)]
                entry.uses += 1
                # A restored entry lies on the CPU until its first use.
                entry.pixels = entry.pixels.to(image.device)
                entry.mask = entry.mask.to(image.device)
                self._pasted.append((c, self._paste(entry, c, image, label, free)))

    def _paste(
        self, entry: MemoryEntry, class_id: int, image: Tensor, label: Tensor, free: Tensor
    ) -> Tensor:
        """Pastes an entry where `free` is true, marks these pixels as taken, and counts them."""
        pixels, mask = self._codec.decode(entry.pixels), entry.mask
        top, left = entry.top, entry.left
        if self.resize_ratio < 1:
            pixels, mask, top, left = shrink(
                pixels, mask, top, left, entry.frame, self.resize_ratio
            )
            top += self._frame_offset(label.shape[0], entry.frame[0])
            left += self._frame_offset(label.shape[1], entry.frame[1])
        rows, box_rows = fit_inside(top, mask.shape[0], label.shape[0])
        columns, box_columns = fit_inside(left, mask.shape[1], label.shape[1])
        pixels, mask = pixels[:, box_rows, box_columns], mask[box_rows, box_columns]
        image, label, free = image[:, rows, columns], label[rows, columns], free[rows, columns]
        mask = mask & free
        free.logical_and_(~mask)
        image.copy_(torch.where(mask, pixels.to(image.dtype), image))
        label.copy_(torch.where(mask, class_id, label))
        return mask.sum()

    def _frame_offset(self, image_length: int, frame_length: int) -> int:
        """Random position of a shrunken frame: inside the image, or around it when it is larger."""
        room = image_length - shrunk_size(frame_length, self.resize_ratio)
        return min(room, 0) + draw(abs(room) + 1, self._generator)

    def _missing(self, present: Tensor) -> Tensor:
        """Turns presence, bool `[B, T]`, into what each image is said to lack in this scope."""
        if self.scope == "batch":
            anywhere = present.any(0).int()
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(anywhere, op=dist.ReduceOp.MAX, group=self.process_group)
            present = anywhere.bool().expand_as(present)
        return ~present

    def _config(self) -> dict[str, Any]:
        """The options that a restored state must share."""
        return {
            "tail_classes": list(self.tail_classes),
            "memory_size": self.memory_size,
            "sample_ratio": self.sample_ratio,
            "resize_ratio": self.resize_ratio,
            "replacement": self.replacement,
            "ignore_index": self.ignore_index,
            "scope": self.scope,
            "min_pixels": self.min_pixels,
            "image_mean": self._codec.mean,
            "image_std": self._codec.std,
        }


def _newest_first(memories: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The newest entry of every rank, then the second newest of every rank, and so on."""
    ages = range(1, max(len(memory) for memory in memories) + 1)
    return [memory[-age] for age in ages for memory in memories if age <= len(memory)]
