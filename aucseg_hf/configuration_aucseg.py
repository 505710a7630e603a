"""AUCSegConfig: a SegFormer configuration with the method's settings under one key, `aucseg`."""

import difflib
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, SegformerConfig

from aucseg_hf.errors import InputError
from aucseg_hf.losses import SegmentationLoss
from aucseg_hf.memory_bank import TailMemoryBank

LOSS_KEYS = ("auc_weight", "ce_weight", "surrogate", "scheme", "gamma", "score")
BANK_KEYS = (
    "tail_classes",
    "memory_size",
    "sample_ratio",
    "resize_ratio",
    "replacement",
    "scope",
)
DEFAULTS: dict[str, Any] = {
    "auc_weight": 1.0,
    "ce_weight": 1.0,
    "surrogate": "square",
    "scheme": "ovo",
    "gamma": 1.0,
    "score": "sigmoid",
    "tail_classes": [],
    "memory_size": 5,
    "sample_ratio": 1.0,
    "resize_ratio": 1.0,
    "replacement": "random",
    "scope": "image",
    "palette": None,
}

_MIT_HIDDEN_SIZES = (64, 128, 320, 512)
_MIT_DEPTHS = {
    "b0": (2, 2, 2, 2),
    "b1": (2, 2, 2, 2),
    "b2": (3, 4, 6, 3),
    "b3": (3, 4, 18, 3),
    "b4": (3, 8, 27, 3),
    "b5": (3, 6, 40, 3),
}
SEGFORMER_SIZES = tuple(_MIT_DEPTHS)


def resolve_settings(settings: Mapping[str, Any] | None, num_labels: int) -> dict[str, Any]:
    """Fills in the defaults of the `aucseg` settings and checks every value.

    Args:
        settings: Any subset of the keys of `DEFAULTS`. `palette` is a list of one (r, g, b) a
            class.
        num_labels: Number of classes, the bound of `tail_classes`.

    Returns:
        A plain, JSON-serialisable dictionary with every key of `DEFAULTS`.

    Raises:
        InputError: If a key is unknown or a value is out of range.
    """
    settings = dict(settings or {})
    for key in settings:
        if key not in DEFAULTS:
            nearest = difflib.get_close_matches(key, DEFAULTS, n=1)
            hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
            raise InputError(f"expected aucseg settings among {list(DEFAULTS)}, got {key!r}{hint}")
    resolved = {**DEFAULTS, **settings}
    resolved["tail_classes"] = list(resolved["tail_classes"] or [])
    SegmentationLoss(**{key: resolved[key] for key in LOSS_KEYS})
    if resolved["tail_classes"]:
        TailMemoryBank(**{key: resolved[key] for key in BANK_KEYS}, num_labels=num_labels)
    if resolved["palette"] is not None:
        resolved["palette"] = [[int(value) for value in color] for color in resolved["palette"]]
    return resolved


def class_id_of(config: PreTrainedConfig, name_or_id: str | int) -> int:
    """Resolves a tail class given by name or id with a model's class names.

    Raises:
        InputError: If it is neither a name nor a number.
    """
    for class_id, name in config.id2label.items():
        if name == name_or_id:
            return int(class_id)
    try:
        return int(name_or_id)
    except ValueError:
        names = list(config.id2label.values())
        raise InputError(
            f"tail class {name_or_id!r} does not exist: expected one of {names}"
        ) from None


@strict
class AUCSegConfig(SegformerConfig):
    """Configuration of `AUCSegForSemanticSegmentation`.

    `model_type` stays "segformer", so a checkpoint also loads as native SegFormer where this
    package is not installed; the settings of the method survive there as one extra key.

    Args:
        aucseg: Settings of the loss (`LOSS_KEYS`), of the memory bank (`BANK_KEYS`), both named as
            `SegmentationLoss` and `TailMemoryBank` name them, and the display colours (`palette`).
            Missing keys take `DEFAULTS`.
        **kwargs: Everything `transformers.SegformerConfig` takes.

    Raises:
        InputError: If `aucseg` holds an unknown key or a value out of range.
    """

    aucseg: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolves and checks `aucseg` once the class count is known."""
        super().__post_init__(**kwargs)
        self.aucseg = resolve_settings(self.aucseg, self.num_labels)

    @classmethod
    def from_size(cls, size: str, **kwargs: Any) -> "AUCSegConfig":
        """Builds the configuration of a named SegFormer size, for training from scratch.

        Args:
            size: "b0" to "b5" (Xie et al., NeurIPS 2021, table 6).
            **kwargs: Passed on to the constructor.

        Raises:
            InputError: If the size is not one of `SEGFORMER_SIZES`.
        """
        if size not in SEGFORMER_SIZES:
            raise InputError(f"expected a SegFormer size in {list(SEGFORMER_SIZES)}, got {size!r}")
        small = size == "b0"
        return cls(
            depths=list(_MIT_DEPTHS[size]),
            hidden_sizes=[32, 64, 160, 256] if small else list(_MIT_HIDDEN_SIZES),
            decoder_hidden_size=256 if size in ("b0", "b1") else 768,
            **kwargs,
        )
