"""Trains a segmentation model with pixel AUC and the tail memory bank.

    accelerate launch scripts/train.py
    accelerate launch scripts/train.py --dataset DIR --model b0 --max_steps 1000
    accelerate launch scripts/train.py RECIPE.yaml --learning_rate 1e-4
    accelerate launch scripts/train.py RECIPE.yaml --resume

Every run writes its settings to run.yaml in its output folder, a recipe that repeats it. Without a
recipe and without --dataset, scripts/recipes/scenes.yaml is used: the embedded benchmark.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import set_seed

from aucseg_hf import AUCSegTrainer, AUCSegTrainingArguments, ClassStatistics
from aucseg_hf.backbones import load_model
from aucseg_hf.checkpoints import set_aside
from aucseg_hf.cli import parse_with_recipe, run
from aucseg_hf.data.arguments import DataArguments, load_training_data
from aucseg_hf.report import write_report
from aucseg_hf.run_record import write_run_record

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


def main(arguments: list[str]) -> None:
    """Trains, evaluates, prints the table and writes checkpoint, report and plots."""
    data, args = parse_with_recipe(
        (DataArguments, AUCSegTrainingArguments), arguments, DEFAULTS, _default_recipe
    )
    started = time.perf_counter()
    _use_all_cores(args)
    set_seed(args.seed)
    _make_room(args)
    train_dataset, eval_dataset, info, statistics, processor = load_training_data(data, args)
    trainer = AUCSegTrainer(
        load_model(data.model, info.id2label, info.palette, data.replace_head),
        args,
        class_statistics=statistics,
        processing_class=processor,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
    )
    if trainer.is_world_process_zero():
        write_run_record(args.output_dir, (data, args), trainer.model.config.aucseg)
        _announce(trainer, statistics, data)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        print(write_report(trainer, info, statistics, time.perf_counter() - started))


def _make_room(args: AUCSegTrainingArguments) -> None:
    """Moves earlier checkpoints out of the way of a run that does not go on from them."""
    if args.resume or args.resume_from_checkpoint or not args.should_save:
        return
    if aside := set_aside(args.output_dir):
        print(
            f"{args.output_dir} held checkpoints of an earlier run, they are in {aside} now "
            "(with --resume, training goes on from them)"
        )


def _use_all_cores(args: AUCSegTrainingArguments) -> None:
    """Undoes the single thread that `accelerate launch` gives a process on a CPU by default."""
    if args.device.type == "cpu" and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.world_size))


def _default_recipe(arguments: Sequence[str]) -> Path | None:
    names = {argument.split("=")[0] for argument in arguments}
    return None if "--dataset" in names else SCENES_RECIPE


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
