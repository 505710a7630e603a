"""BankAdvice: settings of the memory bank that fit the statistics of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass

from aucseg_hf.data.statistics import ClassStatistics

# What the published settings share: five entries a class, and about seven objects pasted into an
# image that lacks all tail classes (all 7 of Cityscapes', 0.05 of 124 in ADE20K and of 123 in
# COCO-Stuff).
_MEMORY_SIZE = 5
_PASTED_OBJECTS = 7
_RATIO_STEP = 0.05


@dataclass(frozen=True)
class BankAdvice:
    """Suggested settings of `TailMemoryBank`.

    Attributes:
        tail_classes: Classes to remember, those of the tail that occur.
        sample_ratio: Share of an image's missing tail classes to paste (R_S).
        memory_size: Objects to keep of each class (S_M).
        reasons: Why, one sentence a setting.
    """

    tail_classes: list[int]
    sample_ratio: float
    memory_size: int
    reasons: list[str]


def advise_bank(statistics: ClassStatistics, class_names: Sequence[str]) -> BankAdvice:
    """Suggests bank settings after the pattern of the published ones.

    Args:
        statistics: Of the training split.
        class_names: Name of every class.
    """
    counts = statistics.image_counts
    tail = [c for c in statistics.tail_classes if counts[c]]
    absent = [class_names[c] for c in statistics.tail_classes if not counts[c]]
    if not tail:
        return BankAdvice([], 1.0, _MEMORY_SIZE, ["no tail class occurs: train without the bank"])
    reasons = [
        f"tail classes: {len(tail)} of {len(class_names)} classes have few pixels"
        + (f"; left out, in no image: {', '.join(absent)}" if absent else "")
    ]
    if len(tail) <= _PASTED_OBJECTS:
        ratio = 1.0
        reasons.append(
            f"sample_ratio 1: an image lacks at most {len(tail)} of them, few enough to paste all "
            "(Cityscapes: 7)"
        )
    else:
        steps = max(1, int(_PASTED_OBJECTS / len(tail) / _RATIO_STEP))
        ratio = round(steps * _RATIO_STEP, 2)
        reasons.append(
            f"sample_ratio {ratio:g}: of {len(tail)} tail classes, about {_PASTED_OBJECTS} an "
            "image as published; more would cover the image (ADE20K: 0.05 of 124)"
        )
    rarest = min(tail, key=lambda c: counts[c])
    size = min(_MEMORY_SIZE, int(counts[rarest]))
    if size < _MEMORY_SIZE:
        reasons.append(
            f"memory_size {size}: {class_names[rarest]} is in {size} image{'s' * (size > 1)}, "
            "more entries would repeat"
        )
    else:
        reasons.append(f"memory_size {size}: the best of 1 to 20 in the published ablation")
    return BankAdvice(tail, ratio, size, reasons)
