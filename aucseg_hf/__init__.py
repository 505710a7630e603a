"""AUCSeg for Hugging Face: pixel-level AUC loss and tail-class memory bank for segmentation.

Names are imported when they are first used, so that the losses, the memory bank and the metrics
cost no more than torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aucseg_hf.configuration_aucseg import AUCSegConfig
    from aucseg_hf.data import (
        ClassStatistics,
        SegmentationDataset,
        TrainAugmentation,
        load_benchmark,
    )
    from aucseg_hf.errors import InputError
    from aucseg_hf.inference import predict
    from aucseg_hf.losses import PixelAUCLoss, SegmentationLoss, pixel_auc_loss, segmentation_loss
    from aucseg_hf.memory_bank import TailMemoryBank
    from aucseg_hf.metrics import SegmentationMetrics
    from aucseg_hf.modeling_aucseg import AUCSegForSemanticSegmentation
    from aucseg_hf.trainer import AUCSegTrainer
    from aucseg_hf.training_args import AUCSegTrainingArguments

__version__ = "0.1.0"

_MODULES = {
    "AUCSegConfig": "configuration_aucseg",
    "AUCSegForSemanticSegmentation": "modeling_aucseg",
    "AUCSegTrainer": "trainer",
    "AUCSegTrainingArguments": "training_args",
    "ClassStatistics": "data",
    "InputError": "errors",
    "PixelAUCLoss": "losses",
    "SegmentationDataset": "data",
    "SegmentationLoss": "losses",
    "SegmentationMetrics": "metrics",
    "TailMemoryBank": "memory_bank",
    "TrainAugmentation": "data",
    "load_benchmark": "data",
    "pixel_auc_loss": "losses",
    "predict": "inference",
    "segmentation_loss": "losses",
}

__all__ = [
    "AUCSegConfig",
    "AUCSegForSemanticSegmentation",
    "AUCSegTrainer",
    "AUCSegTrainingArguments",
    "ClassStatistics",
    "InputError",
    "PixelAUCLoss",
    "SegmentationDataset",
    "SegmentationLoss",
    "SegmentationMetrics",
    "TailMemoryBank",
    "TrainAugmentation",
    "load_benchmark",
    "pixel_auc_loss",
    "predict",
    "segmentation_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
