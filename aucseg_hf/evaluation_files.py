"""The files of an evaluation: JSON, CSV, plots, overlays and one HTML page with all of them."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from aucseg_hf import html_report as html
from aucseg_hf.cli import whole_file
from aucseg_hf.colors import color_map
from aucseg_hf.comparison import Row
from aucseg_hf.data.info import BenchmarkInfo
from aucseg_hf.evaluation import Evaluation, View
from aucseg_hf.matrix_plots import plot_confusion, plot_pixel_auc
from aucseg_hf.metric_table import to_jsonable
from aucseg_hf.plotting import plot_class_iou
from aucseg_hf.report import versions
from aucseg_hf.shown_images import ShownImage

_SINGLE_MEASURES = {
    "mean_iou": "mean IoU",
    "mean_boundary_iou": "mean boundary IoU",
    "mean_iou_image": "mean IoU within images",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_accuracy": "mean accuracy",
    "overall_accuracy": "overall accuracy",
    "pixel_auc": "pixel AUC",
}
# File name, heading and caption.
_MATRICES = {
    "confusion.png": ("Confusion", "Which classes the pixels of each class were given."),
    "pixel_auc.png": (
        "Pixel AUC",
        "How well each class's score ranks its pixels above those of each other class.",
    ),
}


@dataclass(frozen=True)
class EvaluationReport:
    """All that is known of an evaluation.

    Attributes:
        model: Name of the model.
        split: Name of the split.
        info: The data set.
        groups: Class ids by group name.
        evaluation: The measures.
        view: How the model saw an image.
        worst: Images with the smallest mean IoU.
        best: Images with the largest.
        baseline: Name of the model compared with, if any.
        comparison: Result of :func:`aucseg_hf.comparison.compare`, if any.
    """

    model: str
    split: str
    info: BenchmarkInfo
    groups: Mapping[str, Sequence[int]]
    evaluation: Evaluation
    view: View
    worst: Sequence[ShownImage] = ()
    best: Sequence[ShownImage] = ()
    baseline: str | None = None
    comparison: Sequence[Row] = ()

    def write(self, folder: Path) -> list[str]:
        """Write every file whole or not at all.

        Args:
            folder: Made where it does not exist.

        Returns:
            The names of the files.
        """
        classes = self.class_rows()
        files = {"evaluation.json": self._json(), "classes.csv": _csv(classes)}
        if self.comparison:
            files["comparison.csv"] = _csv(self.comparison)
        pictures = {name: _png(figure) for name, figure in self._figures().items()}
        shown = {
            f"{kind}_{number}.jpg": (item, _jpeg(item.strip(self._colors())))
            for kind, items in (("worst", self.worst), ("best", self.best))
            for number, item in enumerate(items, start=1)
        }
        files |= pictures | {name: data for name, (_, data) in shown.items()}
        files["report.html"] = self._page(classes, pictures, shown).encode()
        for name, data in files.items():
            with whole_file(folder / name) as file:
                file.write_bytes(data)
        return list(files)

    def class_rows(self) -> list[Row]:
        """List the measures of every class.

        Returns:
            Rows with the keys ``id``, ``name``, ``group``, ``pixels``, ``iou``, ``iou_low``,
            ``iou_high``, ``accuracy``, ``precision``, ``boundary_iou`` and, where it was measured,
            ``pixel_auc`` against all other classes; shares in 0..1, NaN where undefined.
        """
        measures = self.evaluation.measures
        low, high = self.evaluation.intervals["per_category_iou"]
        columns = {
            "pixels": measures["per_category_pixels"],
            "iou": measures["per_category_iou"],
            "iou_low": low,
            "iou_high": high,
            "accuracy": measures["per_category_accuracy"],
            "precision": measures["per_category_precision"],
            "boundary_iou": measures["per_category_boundary_iou"],
        }
        if "pixel_auc_matrix" in measures:
            columns["pixel_auc"] = [_known_mean(row) for row in measures["pixel_auc_matrix"]]
        group_of = {i: name for name, ids in self.groups.items() for i in ids}
        return [
            {"id": i, "name": name, "group": group_of.get(i, "")}
            | {key: np.asarray(values)[i].item() for key, values in columns.items()}
            for i, name in enumerate(self.info.class_names)
        ]

    def _json(self) -> bytes:
        content = {
            "dataset": self.info.name,
            "split": self.split,
            "model": self.model,
            "images": len(self.evaluation.images),
            "class_names": self.info.class_names,
            "groups": self.groups,
            "view": asdict(self.view),
            "metrics": self.evaluation.measures,
            "intervals": self.evaluation.intervals,
            "confusion": self.evaluation.confusion,
            "worst": [{"name": item.name, "mean_iou": item.mean_iou} for item in self.worst],
            "best": [{"name": item.name, "mean_iou": item.mean_iou} for item in self.best],
            "versions": versions(),
        }
        if self.comparison:
            content |= {"baseline": self.baseline, "comparison": self.comparison}
        return (json.dumps(to_jsonable(content)) + "\n").encode()

    def _colors(self) -> np.ndarray:
        return color_map(self.info.num_labels, self.info.palette)

    def _figures(self) -> dict[str, Figure]:
        measures, names = self.evaluation.measures, self.info.class_names
        figures = {
            "class_iou.png": plot_class_iou(measures["per_category_iou"], names, self.groups),
            "confusion.png": plot_confusion(self.evaluation.confusion, names),
        }
        if "pixel_auc_matrix" in measures:
            figures["pixel_auc.png"] = plot_pixel_auc(measures["pixel_auc_matrix"], names)
        return figures

    def _page(
        self,
        classes: Sequence[Row],
        pictures: Mapping[str, bytes],
        shown: Mapping[str, tuple[ShownImage, bytes]],
    ) -> str:
        parts = self._summary_parts()
        if self.comparison:
            parts += self._comparison_parts()
        keys = [key for key in classes[0] if key not in ("id", "name")]
        parts += [
            html.heading("Classes"),
            html.picture(pictures["class_iou.png"], "IoU per class"),
            html.table(
                ["class", *(key.replace("_", " ") for key in keys)],
                [[row["name"], *(_text(key, row[key]) for key in keys)] for row in classes],
            ),
        ]
        for name, (title, caption) in _MATRICES.items():
            if name in pictures:
                parts += [html.heading(title), html.picture(pictures[name], caption)]
        if shown:
            parts += self._shown_parts(shown)
        return html.page(f"Evaluation of {self.model}", parts)

    def _summary_parts(self) -> list[str]:
        measures, intervals = self.evaluation.measures, self.evaluation.intervals
        suffixes = {"all classes": "", **{name: f"_{name}" for name in self.groups}}
        rows = [
            [title, *(_text(key, measures.get(f"{key}{suffix}")) for suffix in suffixes.values())]
            for key, title in _SINGLE_MEASURES.items()
            if key in measures
        ]
        ends = [intervals[f"mean_iou{suffix}"] for suffix in suffixes.values()]
        rows.insert(1, ["95 % interval", *(" to ".join(map(_percent, pair)) for pair in ends)])
        return [
            html.note(
                f"{len(self.evaluation.images)} images of {self.info.name}, split {self.split}; "
                "intervals by bootstrap over images. Shares in percent, the pixel AUC in 0 to 1."
            ),
            html.table(["", *suffixes], rows),
        ]

    def _comparison_parts(self) -> list[str]:
        rows = [
            [row["name"]]
            + [_percent(row[key]) for key in ("baseline", "model")]
            + [_percent(row[key], "+") for key in ("difference", "low", "high")]
            + ["-" if math.isnan(row["p_value"]) else f"{row['p_value']:.3f}"]
            for row in self.comparison
        ]
        return [
            html.heading(f"Compared with {self.baseline}"),
            html.note(
                "Change of IoU in percent with its 95 % interval and two-sided p-value by paired "
                "bootstrap over images; the p-values are not corrected for their number."
            ),
            html.table(["IoU", "baseline", "model", "change", "from", "to", "p"], rows),
        ]

    def _shown_parts(self, shown: Mapping[str, tuple[ShownImage, bytes]]) -> list[str]:
        colors = self._colors()
        maps = [m for item, _ in shown.values() for m in (item.label, item.prediction)]
        occurring = sorted({int(i) for m in maps for i in np.unique(m) if i < len(colors)})
        entries = [(self.info.class_names[i], colors[i]) for i in occurring]
        parts = [
            html.heading("Worst and best images"),
            html.note("Image, labels and prediction, by the mean IoU within the image."),
            html.legend(entries),
        ]
        for name, (item, data) in shown.items():
            kind = name.split("_")[0]
            parts.append(html.picture(data, f"{kind}: {item.name}, {_percent(item.mean_iou)} %"))
        return parts


def _csv(rows: Sequence[Row]) -> bytes:
    """Write rows with the same keys; NaN is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)
    return text.getvalue().encode()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _jpeg(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _text(key: str, value: str | float | None) -> str:
    """Format a cell by what it holds: a share, an AUC, a count or a name."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if key == "pixels":
        return f"{value:,}"
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if key == "pixel_auc" else _percent(value)


def _percent(share: float, sign: str = "") -> str:
    return "-" if math.isnan(share) else f"{100 * share:{sign}.2f}"


def _known_mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
