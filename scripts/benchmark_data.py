"""Times the way of the data: loader, training step, class counting and a large index.

python scripts/benchmark_data.py --size 360 480 --crop_size 360
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Features, Image
from torch.utils.data import DataLoader, RandomSampler

from aucseg_hf import SegmentationDataset, TrainAugmentation, segmentation_loss
from aucseg_hf.backbones import load_image_processor, load_model
from aucseg_hf.cli import run
from aucseg_hf.data import LabelRule, collate
from aucseg_hf.data.counting import count_classes

NUM_LABELS = 19


def main(arguments: list[str]) -> None:
    """Prints what was measured, one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("H", "W"))
    parser.add_argument("--crop_size", type=int, nargs="+", default=[360, 480], help="side, or H W")
    parser.add_argument("--images", type=int, default=64, help="files to write and read")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="of the loader")
    parser.add_argument("--steps", type=int, default=8, help="training steps; 0 leaves them out")
    parser.add_argument("--labels", type=int, default=2000, help="label maps to count")
    parser.add_argument("--index", type=int, default=100_000, help="file names of a large index")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        records = write_records(Path(folder), options.images, *options.size)
        processor = load_image_processor("b0")
        crop_size = (options.crop_size[0], options.crop_size[-1])
        dataset = SegmentationDataset(
            records, LabelRule(NUM_LABELS), processor, TrainAugmentation(crop_size)
        )
        wall, cpu = time_examples(dataset)
        height, width = options.size
        print(
            f"one worker: {1 / wall:.1f} images {height}x{width} -> crop {crop_size} a second "
            f"({1000 * cpu:.1f} ms of CPU each)"
        )
        if options.steps:
            data, step = time_steps(dataset, options.batch_size, options.workers, options.steps)
            print(
                f"SegFormer-B0, batch {options.batch_size}, {options.workers} workers: "
                f"{step:.3f} s a step, {data / step:.1%} of it waiting for data"
            )
        wall, cpu = time_counting(records, options.labels)
        print(
            f"class counting: {1 / wall:.0f} labels {height}x{width} a second on {os.cpu_count()} "
            f"cores ({1000 * cpu:.2f} ms of CPU each)"
        )
    seconds, megabytes = in_new_process(options.index)
    print(f"index of {options.index} files: {seconds:.2f} s, {megabytes:.0f} MB")


def write_records(folder: Path, count: int, height: int, width: int) -> Dataset:
    """Smooth random images as JPEG and blocky labels as PNG, about as large as real ones."""
    rng = np.random.default_rng(0)
    columns: dict[str, list[str]] = {"image": [], "label": []}
    for i in range(count):
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = PIL.Image.fromarray(noise).resize((width, height), PIL.Image.Resampling.BICUBIC)
        ids = rng.integers(0, NUM_LABELS, (height // 24, width // 24), dtype=np.uint8)
        label = PIL.Image.fromarray(ids).resize((width, height), PIL.Image.Resampling.NEAREST)
        for column, picture, name in (
            ("image", image, f"{i}.jpg"),
            ("label", label, f"{i}.png"),
        ):
            picture.save(folder / name)
            columns[column].append(str(folder / name))
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": Image()}))


def time_examples(dataset: SegmentationDataset) -> tuple[float, float]:
    """Wall and CPU seconds of one example in one process."""
    dataset[0]
    wall, cpu = time.perf_counter(), time.process_time()
    for i in range(len(dataset)):
        dataset[i]
    count = len(dataset)
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def time_steps(
    dataset: SegmentationDataset, batch_size: int, workers: int, steps: int
) -> tuple[float, float]:
    """Seconds a training step waits for its batch, and seconds it takes in all."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model("b0", {i: str(i) for i in range(NUM_LABELS)}).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 6e-5)
    sampler = RandomSampler(dataset, num_samples=(steps + 1) * batch_size, replacement=True)
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    waits = []
    for waited, batch in timed(loader):
        waits.append(waited)
        if len(waits) == 2:
            started = time.perf_counter()  # the first step warms up
        logits = model(pixel_values=batch["pixel_values"].to(device)).logits
        segmentation_loss(logits, batch["labels"].to(device)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
    waited = sum(waits[1:])
    # The first of the waits counted ended when the clock was started.
    total = time.perf_counter() - started + waits[1]
    return waited / steps, total / steps


def timed(loader: DataLoader) -> Iterator[tuple[float, dict]]:
    """Batches with the seconds each was waited for."""
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield time.perf_counter() - started, batch


def time_counting(records: Dataset, count: int) -> tuple[float, float]:
    """Wall and CPU seconds of one label."""
    many = records.select(np.arange(count) % len(records))
    wall, cpu = time.perf_counter(), time.process_time()
    count_classes(many, LabelRule(NUM_LABELS))
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def in_new_process(count: int) -> tuple[float, float]:
    """`open_index` in a process of its own, whose memory is that of the index."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(open_index, count).result()


def open_index(count: int) -> tuple[float, float]:
    """Seconds and megabytes of a data set of so many file names."""
    processor = load_image_processor("b0")
    before, started = resident_megabytes(), time.perf_counter()
    paths = {
        column: [f"/data/some/folder/{split}/{column}s/{i:012d}.png" for i in range(count)]
        for column, split in (("image", "train"), ("label", "train"))
    }
    records = Dataset.from_dict(paths, features=Features({"image": Image(), "label": Image()}))
    del paths
    dataset = SegmentationDataset(records, LabelRule(NUM_LABELS), processor)
    assert len(dataset) == count
    return time.perf_counter() - started, resident_megabytes() - before


def resident_megabytes() -> float:
    """Main memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(run(main))
