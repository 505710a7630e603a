"""AUCSeg for Hugging Face: pixel-level AUC loss and tail-class memory bank for segmentation."""

from aucseg_hf.configuration_aucseg import AUCSegConfig
from aucseg_hf.data import ClassStatistics, SegmentationDataset, TrainAugmentation, load_benchmark
from aucseg_hf.errors import InputError
from aucseg_hf.inference import predict
from aucseg_hf.losses import PixelAUCLoss, SegmentationLoss, pixel_auc_loss, segmentation_loss
from aucseg_hf.memory_bank import TailMemoryBank
from aucseg_hf.metrics import SegmentationMetrics
from aucseg_hf.modeling_aucseg import AUCSegForSemanticSegmentation
from aucseg_hf.trainer import AUCSegTrainer
from aucseg_hf.training_args import AUCSegTrainingArguments

__version__ = "0.1.0"

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
