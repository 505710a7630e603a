"""From records on disk or drawn on the fly to batches of tensors."""

from aucseg_hf.data.augment import TrainAugmentation
from aucseg_hf.data.benchmarks import load_benchmark
from aucseg_hf.data.dataset import SegmentationDataset, collate
from aucseg_hf.data.info import Benchmark, BenchmarkInfo, StreamingBenchmark
from aucseg_hf.data.labels import VOID, LabelRule
from aucseg_hf.data.sampling import RepeatFactorDataset
from aucseg_hf.data.statistics import ClassStatistics
from aucseg_hf.data.streaming import SegmentationStream

__all__ = [
    "VOID",
    "Benchmark",
    "BenchmarkInfo",
    "ClassStatistics",
    "LabelRule",
    "RepeatFactorDataset",
    "SegmentationDataset",
    "SegmentationStream",
    "StreamingBenchmark",
    "TrainAugmentation",
    "collate",
    "load_benchmark",
]
