"""Evaluates a checkpoint on a data set: table, JSON, CSV, plots and one HTML page.

python scripts/evaluate.py --model DIR_OR_ID --dataset NAME_OR_DIR --output_dir evaluation
python scripts/evaluate.py --model DIR_OR_ID --dataset NAME_OR_DIR --compare OTHER_DIR_OR_ID
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from aucseg_hf import SegmentationDataset, load_benchmark
from aucseg_hf.backbones import load_image_processor, load_trained_model
from aucseg_hf.cli import check_device, check_writable, run
from aucseg_hf.comparison import compare, format_comparison
from aucseg_hf.data import BenchmarkInfo
from aucseg_hf.data.folder import check_pairs, split_name
from aucseg_hf.errors import InputError
from aucseg_hf.evaluation import View, check_classes, class_groups, evaluate
from aucseg_hf.evaluation_files import EvaluationReport
from aucseg_hf.metric_table import format_report
from aucseg_hf.shown_images import worst_and_best


def main(arguments: list[str]) -> None:
    """Evaluates, prints the tables and writes the files."""
    options = _parser().parse_args(arguments)
    device = check_device(options.device)
    check_writable(options.output_dir)
    if options.resamples < 1:
        raise InputError(f"expected --resamples >= 1, got {options.resamples}")
    view = View(options.window, tuple(options.scales), options.flip)
    benchmark = load_benchmark(options.dataset, root=options.data_root)
    info, split = benchmark.info, split_name(options.split)
    if split not in benchmark:
        raise InputError(
            f"no split {options.split!r} in {options.dataset}: expected one of {list(benchmark)}"
        )
    names = [options.model] if options.compare is None else [options.model, options.compare]
    models = [_load(name, info, device) for name in names]
    check_pairs(benchmark.files.get(split, []))
    groups = class_groups(benchmark, models[0][0].config, progress=True)
    subjects = [
        (*loaded, SegmentationDataset(benchmark[split], info.label_rule, loaded[1], split=split))
        for loaded in models
    ]
    evaluations = [
        evaluate(*subject, groups, view, resamples=options.resamples, progress=True)
        for subject in subjects
    ]
    evaluation = evaluations[0]
    comparison = []
    if options.compare is not None:
        comparison = compare(
            evaluations[1], evaluation, info.class_names, groups, resamples=options.resamples
        )
    worst, best = worst_and_best(evaluation, *subjects[0], view)
    report = EvaluationReport(
        options.model, split, info, groups, evaluation, view, worst, best,
        baseline=options.compare, comparison=comparison,
    )  # fmt: skip
    try:
        files = report.write(options.output_dir)
    except OSError as error:
        raise InputError(f"cannot write to {options.output_dir}: {error}") from error
    print(format_report(evaluation.measures, info.class_names, groups, evaluation.intervals))
    if comparison:
        print(f"\nIoU % compared with {options.compare}\n{format_comparison(comparison)}")
    print(f"\n{', '.join(files)} are in {options.output_dir}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="trained checkpoint: a folder or a hub id")
    parser.add_argument("--dataset", required=True, help="a benchmark's name, or a folder")
    parser.add_argument("--data_root", help="where the files of a named benchmark lie")
    parser.add_argument("--split", default="val")
    parser.add_argument("--compare", metavar="OTHER", help="checkpoint to compare with")
    parser.add_argument("--output_dir", type=Path, default=Path("evaluation"))
    parser.add_argument("--window", type=int, help="side of a sliding window, in pixels")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0])
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def _load(
    name: str, info: BenchmarkInfo, device: torch.device
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    model = load_trained_model(name)
    check_classes(model.config, name, info)
    return model.to(device), load_image_processor(name)


if __name__ == "__main__":
    sys.exit(run(main))
