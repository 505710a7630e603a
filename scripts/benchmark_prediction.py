"""Measures what prediction takes: largest resident memory and processor time, a process a row.

    OMP_NUM_THREADS=1 python scripts/benchmark_prediction.py

Weights are random. The tiny SegFormer costs next to nothing, so that its rows show what blending
and deciding between many classes take.
"""

import argparse
import multiprocessing
import resource
import time
from typing import NamedTuple

import PIL.Image
import torch
from transformers import SegformerImageProcessor

from aucseg_hf import AUCSegConfig, AUCSegForSemanticSegmentation, predict


class Case(NamedTuple):
    """A row of the table: SegFormer "b0" or "tiny", size of the image, and how it is seen."""

    model: str
    width: int
    height: int
    num_labels: int
    window: int


CASES = (
    Case("b0", 4000, 3000, 19, 512),
    Case("b0", 4000, 3000, 19, 4000),
    Case("b0", 2048, 2048, 19, 2048),
    Case("tiny", 10000, 10000, 150, 512),
)


def measure(case: Case) -> tuple[float, float, float]:
    """Gives the largest resident memory before and after a prediction, in GB, and its seconds."""
    PIL.Image.MAX_IMAGE_PIXELS = None
    torch.manual_seed(0)
    model = AUCSegForSemanticSegmentation(_config(case))
    noise = PIL.Image.effect_noise((case.width // 8, case.height // 8), 60)
    image = noise.resize((case.width, case.height)).convert("RGB")
    before, started = _peak_gigabytes(), time.process_time()
    predict(model, SegformerImageProcessor(do_resize=False), image, window=case.window)
    return before, _peak_gigabytes(), time.process_time() - started


def _config(case: Case) -> AUCSegConfig:
    if case.model == "b0":
        return AUCSegConfig.from_size("b0", num_labels=case.num_labels)
    return AUCSegConfig(
        num_labels=case.num_labels,
        depths=[1] * 4,
        hidden_sizes=[8] * 4,
        num_attention_heads=[1] * 4,
        decoder_hidden_size=8,
    )


def _peak_gigabytes() -> float:
    """Linux counts the largest resident memory of a process in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Prints the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case", nargs=5, metavar=("MODEL", "WIDTH", "HEIGHT", "CLASSES", "WINDOW"), help="one row"
    )
    given = parser.parse_args().case
    cases = CASES if given is None else [Case(given[0], *map(int, given[1:]))]
    print("| SegFormer | image | classes | window | GB with the image | GB at most | CPU s |")
    print("|---|---|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    for case in cases:
        with spawn.Pool(1) as pool:
            before, peak, seconds = pool.apply(measure, (case,))
        print(
            f"| {case.model} | {case.width} x {case.height} | {case.num_labels} | {case.window} | "
            f"{before:.2f} | {peak:.2f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
