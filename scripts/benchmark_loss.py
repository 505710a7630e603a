"""Time and memory of the loss against plain cross-entropy: a table (CSV) and a plot.

    python scripts/benchmark_loss.py --output_dir docs/benchmarks

Forward and backward from stride-4 logits, by four methods: bilinear upsampling and CrossEntropyLoss
(what transformers does), that plus a straightforward autograd AUC, and segmentation_loss with its
PyTorch and its compiled sweep. Times are medians over interleaved runs in one process per shape;
peak memory comes from one process per shape and method. CPU time is what the ratios use, because
it does not depend on how many other programs share the machine's cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from aucseg_hf.losses import native, segmentation_loss

BASELINE = "interpolate + CE"
STRIDE = 4
# Batch, classes, image size, classes present.
TABLE = [
    (2, 19, 512, 19),
    (8, 19, 512, 19),
    (2, 150, 512, 16),
    (2, 150, 512, 150),
    (2, 171, 512, 16),
]
PIXELS = [(2, 19, size, 19) for size in (128, 256, 512, 1024)]
CLASSES = [(2, classes, 512, classes) for classes in (2, 10, 19, 50, 100, 171)]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of transformers' segmentation models."""
    z = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(z, labels, ignore_index=255)


def with_autograd_auc(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus square one-versus-one AUC from class means, all under autograd."""
    z = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    valid = labels != 255
    scores, ids = z.sigmoid().movedim(1, -1)[valid], labels[valid]
    classes = ids.unique()
    own = F.one_hot(torch.searchsorted(classes, ids)).to(scores.dtype)
    weights = own / own.sum(0)
    first = weights.t() @ scores[:, classes]
    second = weights.t() @ scores[:, classes].square()
    mean, square = first.diagonal(), second.diagonal()
    pairs = 1 - 2 * (mean - first) + square - 2 * mean * first + second
    auc = pairs[~torch.eye(len(classes), dtype=torch.bool, device=pairs.device)].mean()
    return F.cross_entropy(z, labels, ignore_index=255) + auc


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus square one-versus-one AUC from one sweep."""
    return segmentation_loss(logits, labels).loss


@contextmanager
def pytorch_sweep() -> Iterator[None]:
    """Switches the compiled sweep off."""
    load, native.load_library = native.load_library, lambda: None
    try:
        yield
    finally:
        native.load_library = load


def run(method: str, logits: Tensor, labels: Tensor) -> None:
    """One forward and backward pass."""
    logits = logits.detach().requires_grad_()
    if method == "ours, PyTorch":
        with pytorch_sweep():
            ours(logits, labels).backward()
        return
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        BASELINE: cross_entropy,
        "interpolate + CE + autograd AUC": with_autograd_auc,
        "ours, compiled": ours,
    }
    losses[method](logits, labels).backward()


def methods(device: str) -> list[str]:
    """What can be measured on the device; the compiled sweep is for CPUs."""
    names = [BASELINE, "interpolate + CE + autograd AUC", "ours, PyTorch"]
    return names + ["ours, compiled"] * (device == "cpu" and native.load_library() is not None)


def make_batch(shape: tuple[int, int, int, int], device: str) -> tuple[Tensor, Tensor]:
    """Random logits, and labels in squares of 16 pixels with a void strip."""
    batch, classes, size, present = shape
    torch.manual_seed(0)
    logits = torch.randn(batch, classes, size // STRIDE, size // STRIDE)
    coarse = torch.randint(0, present, (batch, size // 16, size // 16))
    labels = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, :, : size // 64] = 255
    return logits.to(device), labels.to(device)


def synchronize(device: str) -> None:
    """Waits for the accelerator."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_times(shape: tuple[int, int, int, int], device: str, repeats: int) -> dict:
    """Median CPU and wall time of every method in milliseconds, runs interleaved."""
    logits, labels = make_batch(shape, device)
    names = methods(device)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for name in names:
            synchronize(device)
            cpu, wall = time.process_time(), time.perf_counter()
            run(name, logits, labels)
            synchronize(device)
            if repeat:  # the first round warms up
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: {
            "cpu_ms": 1e3 * statistics.median(cpu for cpu, _ in values),
            "wall_ms": 1e3 * statistics.median(wall for _, wall in values),
        }
        for name, values in times.items()
    }


def measure_memory(shape: tuple[int, int, int, int], device: str, method: str) -> float:
    """Peak memory of one pass beyond its inputs, in MiB; of a fresh process on the CPU."""
    run(method, *make_batch((1, 3, 32, 2), device))
    logits, labels = make_batch(shape, device)
    if device == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(method, logits, labels)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Making the inputs must not leave a peak above what the pass itself will need.
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(method, logits, labels)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """A field of this process's status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def in_new_process(arguments: argparse.Namespace, **case: object) -> dict:
    """Runs one measurement of this script in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    command += ["--device", arguments.device, "--repeats", str(arguments.repeats)]
    command += ["--threads", str(arguments.threads)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(shape: tuple[int, int, int, int], arguments: argparse.Namespace) -> list[dict]:
    """Rows of the table for one shape."""
    times = in_new_process(arguments, shape=shape)
    base: dict[str, float] = {}
    rows = []
    for name, values in times.items():
        values["peak_mib"] = in_new_process(arguments, shape=shape, method=name)["peak_mib"]
        base = base or values
        batch, classes, size, present = shape
        key = "cpu_ms" if arguments.device == "cpu" else "wall_ms"
        rows.append(
            {
                "batch": batch,
                "classes": classes,
                "size": size,
                "present": present,
                "method": name,
                **{field: round(value, 2) for field, value in values.items()},
                "time_ratio": round(values[key] / base[key], 3),
                "memory_ratio": round(values["peak_mib"] / base["peak_mib"], 3),
            }
        )
        print(", ".join(f"{field} {value}" for field, value in rows[-1].items()), flush=True)
    return rows


def hardware(arguments: argparse.Namespace) -> dict[str, object]:
    """Where the numbers come from."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    return {
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else cpu,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def plot(rows: list[dict], path: Path, device: str) -> None:
    """Time and memory against pixels (19 classes) and against classes (2 images of 512 x 512)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), sharey="row", layout="constrained")
    time_field = "cpu_ms" if device == "cpu" else "wall_ms"
    units = {time_field: "CPU time [ms]" if device == "cpu" else "time [ms]"}
    units["peak_mib"] = "peak extra memory [MiB]"
    panels = [(PIXELS, "pixels (19 classes)"), (CLASSES, "classes, all present (2 x 512 x 512)")]
    for column, (shapes, label) in enumerate(panels):
        for row, (field, unit) in enumerate(units.items()):
            axis = axes[row, column]
            for name in dict.fromkeys(entry["method"] for entry in rows):
                points = {
                    (x["batch"], x["classes"], x["size"], x["present"]): x[field]
                    for x in rows
                    if x["method"] == name
                }
                xs = [shape[0] * shape[2] ** 2 if column == 0 else shape[1] for shape in shapes]
                axis.plot(xs, [points[shape] for shape in shapes], marker="o", label=name)
            axis.set(xscale="log", yscale="log", xlabel=label, ylabel=unit)
            axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measures everything, or one case for a parent process."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.case is not None:
        shape, method = tuple(arguments.case["shape"]), arguments.case.get("method")
        if method is None:
            print(json.dumps(measure_times(shape, arguments.device, arguments.repeats)))
        else:
            peak = measure_memory(shape, arguments.device, method)
            print(json.dumps({"peak_mib": peak}))
        return
    native.load_library()  # builds before anything is timed
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    machine = hardware(arguments)
    shapes = dict.fromkeys(TABLE + PIXELS + CLASSES)
    rows = [row | machine for shape in shapes for row in measure(shape, arguments)]
    table = arguments.output_dir / f"loss_{arguments.device}.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    picture = table.with_suffix(".png")
    plot(rows, picture, arguments.device)
    print(f"wrote {table} and {picture}")


if __name__ == "__main__":
    main()
