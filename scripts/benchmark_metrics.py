"""Times SegmentationMetrics on images as large as ADE20K's, with as many classes.

Prints, for each way to measure, milliseconds an image by the wall clock and of processor time, and
the growth of the process's largest memory:

    OMP_WAIT_POLICY=PASSIVE python scripts/benchmark_metrics.py --threads 2
"""

import argparse
import multiprocessing
import platform
import resource
import time
from typing import Any

import torch

from aucseg_hf import SegmentationMetrics
from aucseg_hf.bootstrap import confidence_intervals

NUM_LABELS = 150
SIZE = 512
# Name, images, whether logits are given, options of the metrics.
SETTINGS = (
    ("label maps", 2000, False, {}),
    ("label maps, boundary IoU", 500, False, {"boundary_iou": True}),
    ("logits, argmax only", 50, True, {"pixel_auc": False}),
    ("logits, argmax and pixel AUC", 50, True, {}),
)


def draw_images(count: int, with_logits: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draws predictions (or logits at a quarter of the size) and labels of 16 classes an image."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(count):
        classes = torch.randperm(NUM_LABELS, generator=generator)[:16]
        blocks = torch.randint(16, (SIZE // 32, SIZE // 32), generator=generator)
        labels = classes[blocks].repeat_interleave(32, 0).repeat_interleave(32, 1).byte()
        prediction = labels.roll(4, 0)
        labels[:8] = 255
        if with_logits:
            scores = torch.randn(NUM_LABELS, SIZE // 4, SIZE // 4, generator=generator)
            prediction = scores.scatter_add_(
                0, prediction[None, ::4, ::4].long(), torch.full_like(scores[:1], 4.0)
            )
        images.append((prediction[None], labels[None]))
    return images


def peak_megabytes() -> float:
    """Largest memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(count: int, with_logits: bool, options: dict[str, Any], threads: int) -> list[float]:
    """Measures one setting.

    Returns:
        Milliseconds an image, the same of processor time, milliseconds of `compute`, of the
        intervals, megabytes.
    """
    torch.set_num_threads(threads)
    images = draw_images(10, with_logits)
    metrics = SegmentationMetrics(NUM_LABELS, **options)
    before = peak_megabytes()
    started, started_cpu = time.perf_counter(), time.process_time()
    for index in range(count):
        metrics.update(*images[index % len(images)])
    updated, updated_cpu = time.perf_counter(), time.process_time()
    metrics.compute()
    computed = time.perf_counter()
    confidence_intervals(metrics.images)
    bootstrapped = time.perf_counter()
    milliseconds = [
        (updated - started) / count * 1e3,
        (updated_cpu - started_cpu) / count * 1e3,
        (computed - updated) * 1e3,
        (bootstrapped - computed) * 1e3,
    ]
    return [*milliseconds, peak_megabytes() - before]


def main() -> None:
    """Prints one line for each setting, each measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(
        f"{NUM_LABELS} classes, {SIZE} x {SIZE}, {options.threads} threads, "
        f"{platform.machine()}, torch {torch.__version__}\n\n"
        "| | images | ms an image | CPU ms an image | compute, ms | 1,000 resamples, ms | MB |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, count, with_logits, metric_options in SETTINGS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            arguments = (count, with_logits, metric_options, options.threads)
            values = pool.apply(measure, arguments)
        cells = " | ".join(f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in values)
        print(f"| {name} | {count} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
