"""DataArguments, and what a training script needs of the data they name."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import BaseImageProcessor

from aucseg_hf.backbones import load_image_processor
from aucseg_hf.data.augment import TrainAugmentation
from aucseg_hf.data.benchmarks import Benchmark, BenchmarkInfo, load_benchmark
from aucseg_hf.data.dataset import SegmentationDataset
from aucseg_hf.data.folder import check_pairs
from aucseg_hf.data.statistics import ClassStatistics
from aucseg_hf.errors import InputError
from aucseg_hf.training_args import AUCSegTrainingArguments


@dataclass
class DataArguments:
    """What to train on and what to train."""

    dataset: str = field(
        default="scenes", metadata={"help": "scenes, or a folder DIR/{train,val}/{images,labels}."}
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
        """The training crop, (height, width); by default 512, at most the given image's.

        Raises:
            InputError: If it is not one or two sides of at least 32 pixels.
        """
        if self.crop_size is None:
            return min(512, height), min(512, width)
        if not 1 <= len(self.crop_size) <= 2 or min(self.crop_size) < 32:
            raise InputError(
                f"expected --crop_size SIDE or HEIGHT WIDTH of >= 32, got {self.crop_size}"
            )
        return self.crop_size[0], self.crop_size[-1]


class TrainingData(NamedTuple):
    """Everything of the data that a training script hands on."""

    train_dataset: SegmentationDataset
    eval_dataset: SegmentationDataset
    info: BenchmarkInfo
    statistics: ClassStatistics
    image_processor: BaseImageProcessor


def load_training_data(data: DataArguments, args: AUCSegTrainingArguments) -> TrainingData:
    """Loads, checks and counts the data set of a run.

    Every file is looked at and every label counted before training starts, so that wrong data do
    not end it midway. With `skip_corrupt` this holds for the validation split only.

    Args:
        data: What to load.
        args: Its seed keys the augmentation, its tail classes replace those that follow from the
            data.

    Raises:
        InputError: If the data or an option cannot be used.
    """
    benchmark = _load(data)
    info = benchmark.info
    train, val = _split(benchmark, "train"), _split(benchmark, "val", "validation")
    for split, pairs in benchmark.files.items():
        if split != train or not data.skip_corrupt:
            check_pairs(pairs, f"checking {split} files")
    tail = [info.class_id(name) for name in args.tail_classes] if args.tail_classes else None
    statistics = _count(benchmark[train], info, tail, args, data.skip_corrupt)
    # Only for its errors: wrong validation labels are found before training.
    _count(benchmark[val], info, tail, args)
    processor = load_image_processor(data.model)

    def make_dataset(split: str, **options: Any) -> SegmentationDataset:
        return SegmentationDataset(
            benchmark[split], info.label_rule, processor, split=split, **options
        )

    first = make_dataset(train, skip_corrupt=data.skip_corrupt)[0]["labels"]
    augmentation = TrainAugmentation(data.crop_size_for(*first.shape), data.checked_scale())
    return TrainingData(
        make_dataset(
            train, augmentation=augmentation, seed=args.seed, skip_corrupt=data.skip_corrupt
        ),
        make_dataset(val),
        info,
        statistics,
        processor,
    )


def _load(data: DataArguments) -> Benchmark:
    if data.dataset == "scenes":
        return load_benchmark("scenes")
    options = {"id2label": data.id2label, "palette": data.palette, "root": data.data_root}
    given = {name: value for name, value in options.items() if value is not None}
    return load_benchmark(data.dataset, **given)


def _split(benchmark: Benchmark, *names: str) -> str:
    for name in names:
        if name in benchmark:
            return name
    raise InputError(
        f"expected a split {names[0]!r} in {benchmark.info.name}, got {list(benchmark)}"
    )


def _count(
    records: Dataset,
    info: BenchmarkInfo,
    tail: list[int] | None,
    args: AUCSegTrainingArguments,
    skip_corrupt: bool = False,
) -> ClassStatistics:
    return ClassStatistics.from_dataset(
        records,
        info.num_labels,
        tail_classes=tail,
        progress=args.process_index == 0,
        skip_corrupt=skip_corrupt,
        label_rule=info.label_rule,
    )
