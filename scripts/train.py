"""Trains a segmentation model with pixel AUC and the tail memory bank.

    accelerate launch scripts/train.py
    accelerate launch scripts/train.py --dataset DIR --model b0 --max_steps 1000
    accelerate launch scripts/train.py RECIPE.yaml --learning_rate 1e-4

Without a recipe and without --dataset, scripts/recipes/scenes.yaml is used: the embedded benchmark.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from transformers import set_seed

from aucseg_hf import (
    AUCSegTrainer,
    AUCSegTrainingArguments,
    ClassStatistics,
    SegmentationDataset,
    TrainAugmentation,
    load_benchmark,
)
from aucseg_hf.backbones import load_image_processor, load_model
from aucseg_hf.cli import parse_with_recipe, run
from aucseg_hf.data import Benchmark, BenchmarkInfo
from aucseg_hf.errors import InputError
from aucseg_hf.report import write_report

SCENES_RECIPE = Path(__file__).parent / "recipes" / "scenes.yaml"
DEFAULTS = {
    "output_dir": "outputs/run",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "logging_steps": 10,
    "report_to": "none",
}


@dataclass
class DataArguments:
    """What to train on and what to train."""

    dataset: str = field(
        default="scenes", metadata={"help": "scenes, or a folder DIR/{train,val}/{images,labels}."}
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


def main(arguments: list[str]) -> None:
    """Trains, evaluates, prints the table and writes checkpoint, report and plots."""
    data, args = parse_with_recipe(
        (DataArguments, AUCSegTrainingArguments), arguments, DEFAULTS, _default_recipe
    )
    started = time.perf_counter()
    _use_all_cores(args)
    set_seed(args.seed)
    benchmark = _load(data)
    info = benchmark.info
    train_records, val_records = _split(benchmark, "train"), _split(benchmark, "val", "validation")

    tail = [info.class_id(name) for name in args.tail_classes] if args.tail_classes else None
    statistics = _count(train_records, info, tail, args)
    _count(val_records, info, tail, args)  # finds wrong validation labels before training
    model = load_model(data.model, info.id2label, info.palette, data.replace_head)
    processor = load_image_processor(data.model)
    augmentation = TrainAugmentation(_crop_size(data, train_records), _scale(data))
    trainer = AUCSegTrainer(
        model,
        args,
        class_statistics=statistics,
        processing_class=processor,
        train_dataset=SegmentationDataset(
            train_records, info.label_rule, processor, augmentation, args.seed
        ),
        eval_dataset=SegmentationDataset(val_records, info.label_rule, processor),
    )
    if trainer.is_world_process_zero():
        _announce(trainer, statistics, data)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        print(write_report(trainer, info, statistics, time.perf_counter() - started))


def _use_all_cores(args: AUCSegTrainingArguments) -> None:
    """Undoes the single thread that `accelerate launch` gives a process on a CPU by default."""
    if args.device.type == "cpu" and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.world_size))


def _default_recipe(arguments: Sequence[str]) -> Path | None:
    names = {argument.split("=")[0] for argument in arguments}
    return None if "--dataset" in names else SCENES_RECIPE


def _load(data: DataArguments) -> Benchmark:
    if data.dataset == "scenes":
        return load_benchmark("scenes")
    benchmark = load_benchmark(data.dataset, id2label=data.id2label, palette=data.palette)
    benchmark.check_files()
    return benchmark


def _split(benchmark: Benchmark, *names: str) -> Dataset:
    for name in names:
        if name in benchmark:
            return benchmark[name]
    raise InputError(
        f"expected a split {names[0]!r} in {benchmark.info.name}, got {list(benchmark)}"
    )


def _count(
    records: Dataset, info: BenchmarkInfo, tail: list[int] | None, args: AUCSegTrainingArguments
) -> ClassStatistics:
    return ClassStatistics.from_dataset(
        records, info.num_labels, info.ignore_index, tail, progress=args.process_index == 0
    )


def _crop_size(data: DataArguments, records: Dataset) -> tuple[int, int]:
    if data.crop_size is None:
        width, height = records[0]["image"].size
        return min(512, height), min(512, width)
    if not 1 <= len(data.crop_size) <= 2 or min(data.crop_size) < 32:
        raise InputError(
            f"expected --crop_size SIDE or HEIGHT WIDTH of >= 32, got {data.crop_size}"
        )
    return data.crop_size[0], data.crop_size[-1]


def _scale(data: DataArguments) -> tuple[float, float]:
    if len(data.scale) != 2 or not 0 < data.scale[0] <= data.scale[1]:
        raise InputError(f"expected --scale LOW HIGH with 0 < LOW <= HIGH, got {data.scale}")
    return data.scale[0], data.scale[1]


def _announce(trainer: AUCSegTrainer, statistics: ClassStatistics, data: DataArguments) -> None:
    names = trainer.model.config.id2label
    tail = [names[c] for c in trainer.model.config.aucseg["tail_classes"]]
    bank = f"memory bank of {', '.join(tail)}" if trainer.bank is not None else "no memory bank"
    print(
        f"training {data.model} on {data.dataset}: {statistics.num_images} images, "
        f"{len(names)} classes, imbalance ratio {statistics.imbalance_ratio:.1f}, {bank}"
    )


if __name__ == "__main__":
    sys.exit(run(main))
