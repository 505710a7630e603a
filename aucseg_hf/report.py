"""The result of a run: a table for the terminal, report.json and plots in the output folder."""

import json
from pathlib import Path
from typing import Any

import PIL.Image
from transformers import BaseImageProcessor, PreTrainedModel

from aucseg_hf.cli import whole_file
from aucseg_hf.colors import color_map
from aucseg_hf.data.benchmarks import BenchmarkInfo
from aucseg_hf.data.dataset import SegmentationDataset
from aucseg_hf.data.statistics import ClassStatistics
from aucseg_hf.inference import predict
from aucseg_hf.metric_table import format_report, to_jsonable
from aucseg_hf.plotting import plot_class_iou, plot_training_curves, sample_grid
from aucseg_hf.run_record import versions
from aucseg_hf.trainer import AUCSegTrainer

_SAMPLES = 4


def write_report(
    trainer: AUCSegTrainer, info: BenchmarkInfo, statistics: ClassStatistics, seconds: float
) -> str:
    """Writes what a finished run measured into its output folder.

    `report.json` holds the measures, class statistics, settings, history and versions;
    `class_iou.png`, `curves.png` and `samples.png` show them.

    Args:
        trainer: After `train` and `evaluate`.
        info: The data set's class names and colours.
        statistics: Class statistics of the training split.
        seconds: Wall-clock time of the whole run.

    Returns:
        The table of measures, and where everything was written.
    """
    folder = Path(trainer.args.output_dir)
    metrics = trainer.last_evaluation
    report = {
        "dataset": info.name,
        "model_type": trainer.model.config.model_type,
        "class_names": info.class_names,
        "groups": statistics.groups,
        "metrics": metrics,
        "class_statistics": {
            "num_images": statistics.num_images,
            "pixel_counts": statistics.pixel_counts,
            "image_counts": statistics.image_counts,
            "imbalance_ratio": statistics.imbalance_ratio,
        },
        "settings": trainer.model.config.aucseg,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "history": trainer.state.log_history,
        "versions": versions(),
    }
    with whole_file(folder / "report.json") as file:
        file.write_text(json.dumps(to_jsonable(report), indent=1) + "\n", encoding="utf-8")
    figures = {
        "class_iou.png": plot_class_iou(
            metrics["per_category_iou"], info.class_names, statistics.groups
        ),
        "curves.png": plot_training_curves(trainer.state.log_history),
        "samples.png": _samples(
            trainer.model, trainer.processing_class, trainer.eval_dataset, info
        ),
    }
    for name, figure in figures.items():
        with whole_file(folder / name) as file:
            figure.savefig(file)
    table = format_report(metrics, info.class_names, statistics.groups)
    return (
        f"{table}\n\n{seconds:.0f} s in all; checkpoint, report.json and {', '.join(figures)} "
        f"are in {folder}"
    )


def _samples(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    dataset: SegmentationDataset,
    info: BenchmarkInfo,
) -> Any:
    """Image, label and prediction of a few evaluation images, spread over the set."""
    count = min(_SAMPLES, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    pairs = [dataset.read(i) for i in indices]
    images = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image, _ in pairs]
    labels = [label.numpy() for _, label in pairs]
    predictions = predict(model, processor, images)
    colors = color_map(info.num_labels, info.palette)
    return sample_grid(images, labels, predictions, colors, info.class_names)
