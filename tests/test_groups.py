import numpy as np
import pytest

from aucseg_hf import InputError
from aucseg_hf.data.groups import split_by_count, split_by_list, split_by_share


def test_published_group_sizes_and_other_thresholds():
    shares = np.array([0.5, 0.4, 0.0189, 0.019, 0.0054, 0.0053, 0.051])
    counts = (shares * 10_000_000).round().astype(np.int64)
    assert counts.sum() == 10_000_000 - 4000
    counts[0] += 4000
    assert split_by_share(counts) == {"head": [0, 1, 3, 6], "middle": [2, 4], "tail": [5]}
    groups = split_by_share(counts, head_share=0.1, tail_share=0.0189)
    assert groups == {"head": [0, 1], "middle": [3, 6], "tail": [2, 4, 5]}
    with pytest.raises(InputError, match="tail share < head share"):
        split_by_share(counts, head_share=0.1, tail_share=0.2)


def test_groups_by_rank_and_by_list():
    counts = np.array([5, 50, 1, 20, 0])
    groups = split_by_count(counts, 2, 1)
    assert groups == {"head": [1, 3], "middle": [0, 2], "tail": [4]}
    assert split_by_count(counts, 0, 5)["tail"] == [0, 1, 2, 3, 4]
    assert split_by_count(counts, 1, 0) == {"head": [1], "middle": [0, 2, 3, 4], "tail": []}
    assert split_by_list(4, [3], [0, 1]) == {"head": [3], "middle": [2], "tail": [0, 1]}
    with pytest.raises(InputError, match="at most 5"):
        split_by_count(counts, 3, 3)
    with pytest.raises(InputError, match="class 1 in head or tail"):
        split_by_list(4, [1], [1, 2])
    with pytest.raises(InputError, match="head class 4"):
        split_by_list(4, [4], [])
