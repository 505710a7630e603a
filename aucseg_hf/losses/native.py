"""The sweep compiled for this machine's CPU, built at first use; `moments` is its reference.

The C++ source needs none of torch's headers, so compiling takes seconds; it is called through
ctypes. The library is kept in the user's cache under a name that covers source, compiler and CPU.
Where it cannot be built, one warning is given and the PyTorch sweep does the work; setting the
environment variable AUCSEG_COMPILED=0 has the same effect without the warning.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from aucseg_hf.losses.inputs import Batches, unknown_label
from aucseg_hf.losses.moments import is_bounded
from aucseg_hf.losses.plan import SweepPlan, SweepResult
from aucseg_hf.losses.surrogates import Exponential, Hinge, Square

_SOURCE = Path(__file__).with_name("native_sweep")
_FLAGS = (
    *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"),
    *("-shared", "-fPIC"),
)
# The best first: not every compiler knows OpenMP or can tell the CPU.
_OPTIONAL_FLAGS = (("-march=native", "-fopenmp"), ("-fopenmp",), ())
_BUILD_SECONDS = 300
_SURROGATES = (Square, Hinge, Exponential)
_LABEL_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class _Arguments(ctypes.Structure):
    """Mirrors `SweepArguments` of the C++ source."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in "batch classes height width rows columns present label_type ignore_index "
            "surrogate bounded is_double threads".split()
        ),
        *(
            (name, ctypes.c_double)
            for name in ("spread", "ce_scale", "negative_total", "gamma", "auc_scale")
        ),
        *(
            (name, ctypes.c_void_p)
            for name in "logits labels order pixel_weight positive_weight negative_weight "
            "base pull push ce positive negative".split()
        ),
    )


def sweep(library: ctypes.CDLL, batches: Batches, plan: SweepPlan) -> SweepResult:
    """Does what `moments.sweep` does, for tensors on the CPU."""
    result = SweepResult.zeros(batches, plan)
    if plan.is_empty:
        return result
    order = plan.order(torch.device("cpu"))
    arguments = _Arguments(
        present=plan.columns,
        ignore_index=plan.ignore_index,
        surrogate=_SURROGATES.index(Hinge),
        threads=torch.get_num_threads(),
        order=order.data_ptr(),
        ce=result.ce.data_ptr(),
        positive=result.positive.data_ptr(),
        negative=result.negative.data_ptr(),
    )
    pixel_weight = torch.zeros(plan.num_classes, dtype=torch.float64)
    if plan.cross_entropy is not None:
        pixel_weight = plan.cross_entropy.pixel[order]
        arguments.spread = plan.cross_entropy.spread
        arguments.ce_scale = plan.cross_entropy.scale
    arguments.pixel_weight = pixel_weight.data_ptr()
    if plan.pairing is not None:
        arguments.surrogate = _SURROGATES.index(type(plan.surrogate))
        arguments.gamma = plan.surrogate.gamma
        arguments.negative_total = plan.pairing.total
        arguments.auc_scale = plan.auc_scale / plan.pairing.normalizer
        arguments.positive_weight = plan.pairing.positive_weight.data_ptr()
        if plan.pairing.negative_weight is not None:
            arguments.negative_weight = plan.pairing.negative_weight.data_ptr()
    for index, (logits, labels) in enumerate(batches):
        if labels.numel():
            _sweep_batch(library, arguments, logits, labels, result, index)
    return result


def _sweep_batch(
    library: ctypes.CDLL,
    arguments: _Arguments,
    logits: Tensor,
    labels: Tensor,
    result: SweepResult,
    index: int,
) -> None:
    base = result.base[index]
    logits, labels = logits.to(base.dtype).contiguous(), _readable(labels)
    arguments.batch, arguments.classes, arguments.height, arguments.width = logits.shape
    arguments.rows, arguments.columns = labels.shape[-2:]
    arguments.label_type = _LABEL_TYPES.index(labels.dtype)
    arguments.bounded = is_bounded(logits)
    arguments.is_double = logits.dtype == torch.float64
    arguments.logits, arguments.labels = logits.data_ptr(), labels.data_ptr()
    arguments.base = base.data_ptr()
    arguments.pull, arguments.push = result.pull[index].data_ptr(), result.push[index].data_ptr()
    library.aucseg_sweep(ctypes.byref(arguments))


def count_labels(
    library: ctypes.CDLL, labels: Tensor, num_classes: int, ignore_index: int
) -> Tensor:
    """Does what `inputs.count_labels` does, for tensors on the CPU."""
    counts = torch.zeros(num_classes, dtype=torch.int64)
    labels = _readable(labels)
    unknown = ctypes.c_int64()
    failed = library.aucseg_count(
        ctypes.c_void_p(labels.data_ptr()),
        ctypes.c_int64(_LABEL_TYPES.index(labels.dtype)),
        ctypes.c_int64(labels.numel()),
        ctypes.c_int64(ignore_index),
        ctypes.c_int64(num_classes),
        ctypes.c_void_p(counts.data_ptr()),
        ctypes.byref(unknown),
    )
    if failed:
        raise unknown_label(unknown.value, num_classes, ignore_index)
    return counts


def _readable(labels: Tensor) -> Tensor:
    """Contiguous labels of a dtype that the compiled code reads."""
    return (labels if labels.dtype in _LABEL_TYPES else labels.long()).contiguous()


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """Builds the library if needed and loads it; None where that is impossible or switched off."""
    if os.environ.get("AUCSEG_COMPILED") == "0":
        return None
    try:
        return ctypes.CDLL(str(_build()))
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            f"the compiled loss could not be built ({error}); the PyTorch one takes its place, "
            "a few times slower on CPUs; install g++, or set AUCSEG_COMPILED=0 to silence this",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _build() -> Path:
    """Path of the library, compiled unless it is in the cache.

    Several processes may build at once: each compiles into a file of its own and renames it.

    Raises:
        OSError: without a compiler or a writable cache.
        subprocess.SubprocessError: if the compiler fails.
    """
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise OSError("no C++ compiler found")
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, timeout=_BUILD_SECONDS
    ).stdout
    key = hashlib.sha256(version + _cpu().encode() + repr((_FLAGS, _OPTIONAL_FLAGS)).encode())
    for source in sorted(_SOURCE.iterdir()):
        key.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aucseg_hf"
    library = cache / f"sweep-{key.hexdigest()[:16]}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder) / "sweep.so"
            _compile(compiler, built)
            os.replace(built, library)
    return library


def _compile(compiler: str, target: Path) -> None:
    for attempt, optional in enumerate(_OPTIONAL_FLAGS, start=1):
        command = [compiler, *_FLAGS, *optional, str(_SOURCE / "sweep.cpp"), "-o", str(target)]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=_BUILD_SECONDS)
            return
        except subprocess.CalledProcessError:
            if attempt == len(_OPTIONAL_FLAGS):
                raise


def _cpu() -> str:
    """What tells this machine's CPU from one that cannot run code compiled for it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return platform.machine() + "".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    )
