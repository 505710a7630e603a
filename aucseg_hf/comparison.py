"""Two evaluated models side by side."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from aucseg_hf.bootstrap import paired_bootstrap
from aucseg_hf.evaluation import Evaluation

Row = dict[str, str | float]


def compare(
    baseline: Evaluation,
    evaluation: Evaluation,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[int]] | None = None,
    *,
    resamples: int = 1000,
) -> list[Row]:
    """Compare the IoU of two models on the same images by paired bootstrap.

    Args:
        baseline: The model to compare with.
        evaluation: The model in question.
        class_names: Name of every class.
        groups: Class ids by group name.
        resamples: Number of resamples.

    Returns:
        Rows with the keys ``kind`` (overall, group or class), ``name``, ``baseline``, ``model``,
        ``difference`` (model minus baseline), ``low`` and ``high`` (its 95 % interval) and
        ``p_value``; IoU in 0..1, NaN where undefined.

    Raises:
        InputError: The two were not evaluated on the same images.
    """
    differences = paired_bootstrap(baseline.images, evaluation.images, groups, resamples=resamples)

    def row(kind: str, name: str, measure: str, index: int | None = None) -> Row:
        difference = differences[measure]
        at = () if index is None else (index,)
        values = {
            "baseline": np.asarray(baseline.measures[measure])[at],
            "model": np.asarray(evaluation.measures[measure])[at],
            "difference": difference.value[at],
            "low": difference.interval[(0, *at)],
            "high": difference.interval[(1, *at)],
            "p_value": difference.p_value[at],
        }
        return {"kind": kind, "name": name, **{key: float(v) for key, v in values.items()}}

    return [
        row("overall", "overall", "mean_iou"),
        *(row("group", name, f"mean_iou_{name}") for name in groups or ()),
        *(row("class", name, "per_category_iou", i) for i, name in enumerate(class_names)),
    ]


def format_comparison(rows: Sequence[Row]) -> str:
    """Write a comparison as a plain-text table, IoU in percent.

    Args:
        rows: Result of :func:`compare`.
    """
    width = max(len(str(row["name"])) for row in rows)
    header = f"{'':<{width}}" + "".join(
        f"{title:>10}" for title in ("baseline", "model", "change", "from", "to", "p")
    )
    lines = [header, "-" * len(header)]
    for row in rows:
        cells = [
            "-" if math.isnan(row[key]) else f"{100 * row[key]:{sign}.2f}"
            for key, sign in (
                ("baseline", ""), ("model", ""), ("difference", "+"), ("low", "+"), ("high", "+"),
            )
        ]  # fmt: skip
        cells.append("-" if math.isnan(row["p_value"]) else f"{row['p_value']:.3f}")
        lines.append(f"{row['name']:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)
