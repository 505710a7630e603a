"""Head, middle and tail: which classes are frequent and which are rare."""

from collections.abc import Iterable, Sequence

import numpy as np

from aucseg_hf.errors import InputError

HEAD_SHARE = 0.019
TAIL_SHARE = 0.0053

Groups = dict[str, list[int]]


def split_by_share(
    pixel_counts: np.ndarray,
    tail_classes: Sequence[int] | None = None,
    head_share: float = HEAD_SHARE,
    tail_share: float = TAIL_SHARE,
) -> Groups:
    """Splits classes into head (>= 1.9 % of the labelled pixels), tail (<= 0.53 %) and middle.

    The two thresholds reproduce the published groups of ADE20K and Cityscapes.

    Args:
        pixel_counts: int64 [K].
        tail_classes: When given, exactly these are the tail, and the head leaves them out.
        head_share: Another threshold of the head.
        tail_share: Another threshold of the tail.

    Raises:
        InputError: If a given tail class does not exist, or the thresholds are not in order.
    """
    if not 0 <= tail_share < head_share <= 1:
        raise InputError(
            f"expected 0 <= tail share < head share <= 1, got {tail_share} and {head_share}"
        )
    shares = pixel_counts / max(1, pixel_counts.sum())
    if tail_classes is None:
        tail_classes = np.flatnonzero(shares <= tail_share)
    tail = set(map(int, tail_classes))
    head = [c for c in np.flatnonzero(shares >= head_share) if c not in tail]
    return split_by_list(len(pixel_counts), head, tail_classes)


def split_by_count(pixel_counts: np.ndarray, num_head: int, num_tail: int) -> Groups:
    """Splits classes by their rank: the `num_head` with most pixels, the `num_tail` with fewest.

    Args:
        pixel_counts: int64 [K].
        num_head: Size of the head, such as 19 for COCO-Stuff.
        num_tail: Size of the tail, such as 123 for COCO-Stuff.

    Raises:
        InputError: If there are not so many classes.
    """
    num_labels = len(pixel_counts)
    if min(num_head, num_tail) < 0 or num_head + num_tail > num_labels:
        raise InputError(
            f"expected head and tail of at most {num_labels} classes together, "
            f"got {num_head} and {num_tail}"
        )
    ranked = np.argsort(-pixel_counts, kind="stable")
    return split_by_list(num_labels, ranked[:num_head], ranked[num_labels - num_tail :])


def split_by_list(num_labels: int, head: Iterable[int], tail: Iterable[int]) -> Groups:
    """Splits classes as told; the middle is what is in neither list.

    Raises:
        InputError: If a class does not exist or is in both lists.
    """
    groups = {}
    for name, ids in (("head", head), ("tail", tail)):
        groups[name] = sorted({int(c) for c in ids})
        missing = [c for c in groups[name] if not 0 <= c < num_labels]
        if missing:
            raise InputError(
                f"{name} class {missing[0]} does not exist: expected 0..{num_labels - 1}"
            )
    both = sorted(set(groups["head"]) & set(groups["tail"]))
    if both:
        raise InputError(f"expected class {both[0]} in head or tail, got it in both")
    middle = [c for c in range(num_labels) if c not in groups["head"] + groups["tail"]]
    return {"head": groups["head"], "middle": middle, "tail": groups["tail"]}
