"""Losses for semantic segmentation: pixel-level AUC, alone or with cross-entropy.

Pure torch; usable in any training loop.
"""

from aucseg_hf.losses.auc import PixelAUCLoss, pixel_auc_loss
from aucseg_hf.losses.segmentation import SegmentationLoss, segmentation_loss
from aucseg_hf.losses.terms import SegmentationLossOutput

__all__ = [
    "PixelAUCLoss",
    "SegmentationLoss",
    "SegmentationLossOutput",
    "pixel_auc_loss",
    "segmentation_loss",
]
