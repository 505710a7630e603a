"""Times the memory bank with full memories, next to one training pass of a SegFormer-B0.

Prints a table with, for each setting, the time of a call and of an image, the bytes of a stored
pixel, and the share of one forward and backward pass (without loss) on the same batch:

    OMP_WAIT_POLICY=PASSIVE python scripts/benchmark_bank.py --threads 2
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from aucseg_hf import TailMemoryBank

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Setting:
    """One row of the table: a published setting of the bank and a typical size of objects.

    Attributes:
        name: Name of the setting.
        num_labels: Number of classes; the last `num_tail` of them are tail classes.
        num_tail: Number of tail classes.
        objects: Tail objects in an image.
        median_pixels: Median area of an object.
        sample_ratio: R_S.
        resize_ratio: R_R.
    """

    name: str
    num_labels: int
    num_tail: int
    objects: int
    median_pixels: int
    sample_ratio: float
    resize_ratio: float


SETTINGS = [
    Setting("Cityscapes, small objects", 19, 7, 3, 470, 1.0, 1.0),
    Setting("Cityscapes, large objects", 19, 7, 3, 13_000, 1.0, 1.0),
    Setting("ADE20K, small objects", 150, 124, 8, 470, 0.05, 0.4),
    Setting("ADE20K, large objects", 150, 124, 8, 13_000, 0.05, 0.4),
]


def draw_labels(setting: Setting, batch_size: int, size: int, generator: torch.Generator) -> Tensor:
    """Draws int64 labels `[B, size, size]`: blocks of common classes under ellipses of tail ones.

    Areas are log-normal about the median, sides differ by up to a factor of two.
    """
    num_head = setting.num_labels - setting.num_tail
    blocks = torch.randint(num_head, (batch_size, 8, 8), generator=generator)
    labels = blocks.repeat_interleave(size // 8, 1).repeat_interleave(size // 8, 2)
    y, x = torch.arange(size)[:, None], torch.arange(size)[None, :]
    for label in labels:
        classes = torch.randperm(setting.num_tail, generator=generator)[: setting.objects]
        for class_id in (num_head + classes).tolist():
            area = setting.median_pixels * math.exp(float(torch.randn((), generator=generator)))
            stretch = 2 ** float(torch.rand((), generator=generator) - 0.5)
            radius = math.sqrt(area / math.pi)
            top, left = (torch.rand(2, generator=generator) * size).tolist()
            inside = ((y - top) / (radius * stretch)) ** 2 + (
                (x - left) * stretch / radius
            ) ** 2 < 1
            label[inside] = class_id
    return labels


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Returns the wall-clock seconds of one run, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def time_training_pass(images: Tensor, num_labels: int, repeats: int) -> float:
    """Returns the median seconds of forward and backward of a random SegFormer-B0, in float32."""
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_labels))
    model.to(images.device).train()

    def train() -> None:
        model.zero_grad()
        model(pixel_values=images).logits.mean().backward()

    train()
    return statistics.median(seconds(train, images.device) for _ in range(repeats))


def time_bank(setting: Setting, images: Tensor, calls: int) -> tuple[float, float]:
    """Returns the median seconds of a call with full memories, and the bytes of a stored pixel."""
    generator = torch.Generator().manual_seed(0)
    batch_size, _, size, _ = images.shape
    bank = TailMemoryBank(
        range(setting.num_labels - setting.num_tail, setting.num_labels),
        sample_ratio=setting.sample_ratio,
        resize_ratio=setting.resize_ratio,
        image_mean=MEAN,
        image_std=STD,
    )
    times = []
    while len(times) < calls:
        labels = draw_labels(setting, batch_size, size, generator).to(images.device)
        full = len(bank) == setting.num_tail * bank.memory_size
        elapsed = seconds(lambda labels=labels: bank(images, labels), images.device)
        if full:
            times.append(elapsed)
    stored = sum(mask.numel() for c in bank.tail_classes for _, mask in bank.crops(c))
    return statistics.median(times), bank.nbytes / stored


def main() -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument(
        "--size", type=int, default=512, help="side of the images, a multiple of 32"
    )
    parser.add_argument("--calls", type=int, default=20, help="timed calls of the bank per setting")
    parser.add_argument(
        "--passes", type=int, default=3, help="timed training passes per class count"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, 3, arguments.size, arguments.size)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    images = ((torch.randint(256, shape, generator=generator) / 255 - mean) / std).to(device)

    print(
        f"torch {torch.__version__}, {device}, {arguments.threads} threads, "
        f"{platform.machine()}; batch {list(shape)}"
    )
    print(
        "| setting | ms / call | ms / image | bytes / stored pixel | SegFormer-B0 ms | bank share |"
    )
    print("|---|---|---|---|---|---|")
    passes: dict[int, float] = {}
    for setting in SETTINGS:
        call, bytes_per_pixel = time_bank(setting, images, arguments.calls)
        if setting.num_labels not in passes:
            passes[setting.num_labels] = time_training_pass(
                images, setting.num_labels, arguments.passes
            )
        training = passes[setting.num_labels]
        print(
            f"| {setting.name} | {call * 1e3:.1f} | {call * 1e3 / arguments.batch_size:.2f} "
            f"| {bytes_per_pixel:.2f} | {training * 1e3:.0f} | {call / training:.2%} |"
        )


if __name__ == "__main__":
    main()
