"""DataArguments, and what a training script needs of the data they name."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from datasets import Dataset, Features, Image, IterableDataset
from transformers import BaseImageProcessor

from aucseg_hf.backbones import image_sizes_of, load_image_processor
from aucseg_hf.data.augment import TrainAugmentation
from aucseg_hf.data.benchmarks import load_benchmark
from aucseg_hf.data.dataset import SegmentationDataset
from aucseg_hf.data.folder import check_pairs
from aucseg_hf.data.info import Benchmark, BenchmarkInfo, StreamingBenchmark
from aucseg_hf.data.records import undecoded
from aucseg_hf.data.sampling import RepeatFactorDataset, repeat_factors
from aucseg_hf.data.statistics import ClassStatistics
from aucseg_hf.data.streaming import SegmentationStream
from aucseg_hf.errors import InputError, check_choice
from aucseg_hf.training_args import AUCSegTrainingArguments


@dataclass
class DataArguments:
    """What to train on and what to train."""

    _argument_group_name: ClassVar[str] = "data and model"

    dataset: str = field(
        default="scenes",
        metadata={
            "help": "Name of a benchmark, a folder DIR/{train,val}/{images,labels}, one of parquet "
            "or tar files DIR/{train,val}-*, or a hub id."
        },
    )
    data_root: str | None = field(
        default=None, metadata={"help": "Where the files of a named benchmark lie."}
    )
    model: str = field(
        default="b0",
        metadata={"help": "SegFormer size b0..b5 from scratch, a folder, or a hub id."},
    )
    replace_head: bool = field(
        default=False,
        metadata={"help": "Accept a checkpoint with other classes, start its head anew."},
    )
    id2label: str | None = field(
        default=None,
        metadata={"help": "Class names: a JSON file or name,name,...; default DIR/id2label.json."},
    )
    palette: str | None = field(
        default=None,
        metadata={"help": "JSON file of one [r, g, b] a class; default DIR/palette.json."},
    )
    crop_size: list[int] | None = field(
        default=None,
        metadata={"help": "Training crop, side or height width; default 512, at most the image."},
    )
    scale: list[float] = field(
        default_factory=lambda: [0.5, 2.0], metadata={"help": "Range of the random resize factor."}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read training records one after the other, in bounded memory."},
    )
    shuffle_buffer: int = field(
        default=1000,
        metadata={"help": "Records a stream draws the next from; they are kept undecoded."},
    )
    sampling: str = field(
        default="uniform",
        metadata={"help": "uniform, or repeat_factor: images of rare classes come more often."},
    )
    repeat_threshold: float = field(
        default=0.1,
        metadata={"help": "Share of the images below which repeat_factor calls a class rare."},
    )
    skip_corrupt: bool = field(
        default=False,
        metadata={"help": "Replace training files that do not decode by the next, with a warning."},
    )

    def checked_scale(self) -> tuple[float, float]:
        """The resize range.

        Raises:
            InputError: If it is not LOW HIGH with 0 < LOW <= HIGH.
        """
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"expected --scale LOW HIGH with 0 < LOW <= HIGH, got {self.scale}")
        return self.scale[0], self.scale[1]

    def crop_size_for(self, height: int, width: int) -> tuple[int, int]:
        """The training crop, (height, width).

        By default it is the model's one size where it has only one, else 512, at most the given
        image's, and rounded down to what the model takes.

        Raises:
            InputError: If it is not one or two sides of at least 32 pixels.
        """
        if self.crop_size is None:
            sizes = image_sizes_of(self.model)
            multiple = sizes.multiple
            default = [max(1, min(512, side) // multiple) * multiple for side in (height, width)]
            return sizes.fixed or (default[0], default[1])
        if not 1 <= len(self.crop_size) <= 2 or min(self.crop_size) < 32:
            raise InputError(
                f"expected --crop_size SIDE or HEIGHT WIDTH of >= 32, got {self.crop_size}"
            )
        return self.crop_size[0], self.crop_size[-1]


class TrainingData(NamedTuple):
    """Everything of the data that a training script hands on."""

    train_dataset: SegmentationDataset | RepeatFactorDataset | SegmentationStream
    eval_dataset: SegmentationDataset
    info: BenchmarkInfo
    statistics: ClassStatistics
    image_processor: BaseImageProcessor


def load_training_data(data: DataArguments, args: AUCSegTrainingArguments) -> TrainingData:
    """Loads, checks and counts the data set of a run.

    Every file is looked at and every label counted before training starts, so that wrong data do
    not end it midway. With `skip_corrupt` this holds for the validation split only; of a stream,
    images are not looked at.

    Args:
        data: What to load.
        args: Its seed keys the augmentation, its tail classes replace those that follow from the
            data.

    Raises:
        InputError: If the data or an option cannot be used.
    """
    check_choice("sampling", data.sampling, ("uniform", "repeat_factor"))
    if data.streaming:
        _check_stream(data, args)
    train, val, info = _open(data)
    named_tail = [info.class_id(name) for name in args.tail_classes or ()]
    tail = named_tail or info.tail_classes
    options = {"progress": args.process_index == 0, "label_rule": info.label_rule}
    statistics = ClassStatistics.from_dataset(
        train, info.num_labels, tail_classes=tail, skip_corrupt=data.skip_corrupt, **options
    )
    # Only for its errors: wrong validation labels are found before training.
    ClassStatistics.from_dataset(val, info.num_labels, **options)
    processor = load_image_processor(data.model)

    def make_dataset(augmentation: TrainAugmentation | None) -> Any:
        shared = (info.label_rule, processor, augmentation, args.seed)
        named = {"split": "train", "skip_corrupt": data.skip_corrupt}
        if not data.streaming:
            return SegmentationDataset(train, *shared, **named)
        batches = (args.train_batch_size, args.world_size, data.shuffle_buffer)
        return SegmentationStream(train, len(statistics.presence), *shared, *batches, **named)

    first = next(iter(make_dataset(None)))["labels"]
    crop_size = data.crop_size_for(*first.shape)
    train_dataset = make_dataset(TrainAugmentation(crop_size, data.checked_scale()))
    if data.sampling == "repeat_factor":
        factors = repeat_factors(statistics.presence, data.repeat_threshold)
        train_dataset = RepeatFactorDataset(train_dataset, factors, args.seed)
    eval_dataset = SegmentationDataset(val, info.label_rule, processor, split="val")
    return TrainingData(train_dataset, eval_dataset, info, statistics, processor)


def _check_stream(data: DataArguments, args: AUCSegTrainingArguments) -> None:
    if data.sampling == "repeat_factor":
        raise InputError("a stream cannot repeat images: leave out --streaming or --sampling")
    if args.auto_find_batch_size:
        raise InputError("a stream needs a fixed batch size: leave out --auto_find_batch_size")


def _open(data: DataArguments) -> tuple[Dataset | IterableDataset, Dataset, BenchmarkInfo]:
    """Opens a data set and looks at its files; returns its two splits and its classes."""
    benchmark = load_benchmark(
        data.dataset,
        streaming=data.streaming,
        id2label=data.id2label,
        palette=data.palette,
        root=data.data_root,
    )
    train, val = _split(benchmark, "train"), _split(benchmark, "val")
    for split, pairs in benchmark.files.items():
        if split != "train" or not data.skip_corrupt:
            check_pairs(pairs, f"checking {split} files")
    if isinstance(val, IterableDataset):
        # Evaluation wants an index: compressed images of a validation split fit into memory.
        features = Features({"image": Image(), "label": Image()})
        val = Dataset.from_list(list(undecoded(val)), features=features)
    return train, val, benchmark.info


def _split(benchmark: Benchmark | StreamingBenchmark, name: str) -> Dataset | IterableDataset:
    if name not in benchmark:
        raise InputError(
            f"expected a split {name!r} in {benchmark.info.name}, got {list(benchmark)}"
        )
    return benchmark[name]
