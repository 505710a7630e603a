"""Class statistics for the eye: a table, and bars grouped by head, middle and tail."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aucseg_hf.colors import color_map
from aucseg_hf.data.advice import BankAdvice
from aucseg_hf.data.statistics import ClassStatistics

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_MOST_NAMED = 20


def format_statistics(
    statistics: ClassStatistics,
    class_names: Sequence[str],
    advice: BankAdvice,
    delta: float = 0.01,
) -> str:
    """Writes statistics and suggested bank settings as plain text.

    Args:
        statistics: Of one split.
        class_names: Name of every class.
        advice: Suggested bank settings.
        delta: Probability with which a batch may lack a class.

    Returns:
        One line a class, most pixels first, then the imbalance, what batches lack, and the advice.
    """
    width = max(len("class"), *(len(name) for name in class_names))
    group_of = {c: group for group, ids in statistics.groups.items() for c in ids}
    header = f"{'id':>4}  {'class':<{width}}  group {'pixels %':>10}{'images':>9}{'images %':>10}"
    lines = [header, "-" * len(header)]
    for c in np.argsort(-statistics.pixel_counts, kind="stable"):
        images = statistics.image_counts[c]
        numbers = f"{100 * statistics.shares[c]:>10.4f}{images:>9}"
        numbers += f"{100 * images / max(1, statistics.num_images):>10.2f}"
        lines.append(f"{c:>4}  {class_names[c]:<{width}}  {group_of[c]:<6}{numbers}")
    sizes = ", ".join(f"{name} {len(ids)}" for name, ids in statistics.groups.items())
    ratio = statistics.imbalance_ratio
    lines += [
        lines[1],
        f"{statistics.num_images} images; {sizes}",
        f"imbalance ratio r_m {'-' if math.isnan(ratio) else f'{ratio:.1f}'}, "
        f"Gini coefficient of the pixels {statistics.gini:.3f}",
        "",
        _format_missing(statistics, delta),
        "",
        "suggested bank:",
        *(f"  {reason}" for reason in advice.reasons),
    ]
    if advice.tail_classes:
        tail = advice.tail_classes
        by_name = len(tail) <= _MOST_NAMED
        names = " ".join(_quoted(class_names[c]) if by_name else str(c) for c in tail)
        lines.append(
            f"  --tail_classes {names} --sample_ratio {advice.sample_ratio:g} "
            f"--memory_size {advice.memory_size}"
        )
    return "\n".join(lines)


def _format_missing(statistics: ClassStatistics, delta: float) -> str:
    """What batches of random images lack, by the union bound over the classes that occur."""
    lines = [f"{'batch size':>10}{'classes missing, mean':>23}{'any missing, at most':>22}"]
    for size in _BATCH_SIZES:
        missing = statistics.missing_probability(size)[statistics.image_counts > 0].sum()
        lines.append(f"{size:>10}{missing:>23.2f}{min(1, missing):>22.1%}")
    needed = statistics.batch_size_for(delta)
    lines.append(f"every class is in a batch of {needed} with probability {1 - delta:g}")
    return "\n".join(lines)


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name


def plot_statistics(statistics: ClassStatistics, class_names: Sequence[str]) -> Figure:
    """Draws pixels and images of every class, grouped by head, middle and tail.

    Args:
        statistics: Of one split.
        class_names: Name of every class.

    Returns:
        A figure of two rows of bars on logarithmic axes, most pixels first. Classes without a pixel
        have a name and no bar.
    """
    groups = {name: ids for name, ids in statistics.groups.items() if ids}
    order = [
        c for ids in groups.values() for c in sorted(ids, key=lambda c: -statistics.pixel_counts[c])
    ]
    rows = {
        "% of labelled pixels": 100 * statistics.shares,
        "% of images": 100 * statistics.image_counts / max(1, statistics.num_images),
    }
    figure = Figure(figsize=(max(6.0, 1.6 + 0.17 * len(order)), 5.6), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    colors = np.repeat(color_map(len(groups)) / 255, [len(ids) for ids in groups.values()], axis=0)
    for axis, (label, values) in zip(axes, rows.items(), strict=True):
        axis.bar(range(len(order)), values[order], color=colors)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        # Down to a whole decade below the smallest bar, which then has a height to compare.
        least = values[values > 0].min(initial=1)
        axis.set_ylim(10 ** math.floor(math.log10(least / 2)), 100)
        axis.set_ylabel(label, fontsize=9)
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    names = [textwrap.shorten(class_names[c], 28, placeholder="…") for c in order]
    axes[1].set_xticks(range(len(order)), names, rotation=90, fontsize=7)
    axes[1].set_xlim(-0.7, len(order) - 0.3)
    handles = [Patch(color=color) for color in color_map(len(groups)) / 255]
    labels = [f"{name} ({len(ids)})" for name, ids in groups.items()]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(groups), fontsize=8)
    return figure
