"""Pictures of the memory bank at work: its entries, and batches before and after pasting."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from aucseg_hf.cli import whole_file
from aucseg_hf.colors import colorize
from aucseg_hf.memory_bank import TailMemoryBank

Batch = tuple[torch.Tensor, torch.Tensor]

_MOST_IMAGES = 4
_MOST_CLASSES = 24
_BACKGROUND = 235


@dataclass(frozen=True)
class BankPictures:
    """Writes what the bank holds and what it pasted, every so many steps.

    Args:
        folder: Where `step-000100-batch.png` and `step-000100-entries.png` go.
        every: Number of optimizer steps between two pictures.
        class_names: Name of every class.
        colors: uint8 [K, 3], display colours.
        image_mean: Mean that normalisation subtracted, of images in 0..1.
        image_std: Standard deviation it divided by.
    """

    folder: Path
    every: int
    class_names: Sequence[str]
    colors: np.ndarray
    image_mean: Sequence[float]
    image_std: Sequence[float]

    def draw(self, step: int, bank: TailMemoryBank, before: Batch, after: Batch) -> None:
        """Writes the two pictures of a step, once, if it is one of those to draw.

        Args:
            step: Number of optimizer steps done.
            bank: The bank after the call that turned `before` into `after`.
            before: pixel_values [B, 3, H, W] and labels [B, H, W].
            after: The same with pasted objects.
        """
        target = self.folder / f"step-{step:06}-batch.png"
        if step % self.every or target.exists():
            return
        with whole_file(target) as file:
            self.batch_figure(before, after).savefig(file)
        with whole_file(self.folder / f"step-{step:06}-entries.png") as file:
            self.entries_figure(bank).savefig(file)

    def batch_figure(self, before: Batch, after: Batch) -> Figure:
        """The images with the most pasted pixels: before, after, and the labels after."""
        pasted = (before[1] != after[1]).flatten(1).sum(1)
        chosen = pasted.argsort(descending=True)[:_MOST_IMAGES].tolist()
        aspect = before[1].shape[1] / before[1].shape[2]
        figure = Figure(figsize=(9, 3 * aspect * len(chosen) + 0.3), layout="constrained")
        axes = figure.subplots(len(chosen), 3, squeeze=False)
        for row, index in zip(axes, chosen, strict=True):
            row[0].imshow(self._image(before[0][index]))
            row[1].imshow(self._image(after[0][index]))
            row[2].imshow(colorize(after[1][index].cpu().numpy(), self.colors))
        for axis, title in zip(axes[0], ("before", "after", "label after"), strict=True):
            axis.set_title(title, fontsize=10)
        for axis in axes.flat:
            axis.set_axis_off()
        return figure

    def entries_figure(self, bank: TailMemoryBank) -> Figure:
        """One row a tail class, oldest entry first; pixels that are not of the class are grey."""
        classes = bank.tail_classes[:_MOST_CLASSES]
        columns = max(1, bank.memory_size)
        figure = Figure(figsize=(1.2 * columns + 1.5, 1.2 * len(classes)), layout="constrained")
        axes = figure.subplots(len(classes), columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for row, class_id in zip(axes, classes, strict=True):
            name, entries = self.class_names[class_id], bank.crops(class_id)
            row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center")
            for axis, (pixels, mask) in zip(row, entries, strict=False):
                image = self._image(pixels)
                image[~mask.cpu().numpy()] = _BACKGROUND
                axis.imshow(image)
        return figure

    def _image(self, pixels: torch.Tensor) -> np.ndarray:
        """uint8 [H, W, 3] of normalised pixels [3, H, W]."""
        mean = torch.tensor(self.image_mean).view(3, 1, 1)
        std = torch.tensor(self.image_std).view(3, 1, 1)
        levels = (pixels.detach().float().cpu() * std + mean) * 255
        return levels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
