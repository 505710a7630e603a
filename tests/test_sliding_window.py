import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from aucseg_hf.sliding_window import Axis, BlendedLogits, decide


def random_logits(num_labels, size, images=1):
    """A stand-in for the model: logits that depend on the window alone, and a list of calls."""
    calls = []

    def logits_of(corners):
        calls.append(corners)
        generators = [torch.Generator().manual_seed(1000 * top + left) for top, left in corners]
        shape = (images, num_labels, *size)
        return torch.stack([torch.randn(shape, generator=g) for g in generators])

    return logits_of, calls


def brute_force(logits_of, rows, columns):
    """Blended logits [G, K, H, W] by whole tensors, grid_sample and two-dimensional weights."""
    total = weight = 0
    y = (torch.arange(rows.length) + 0.5) * rows.scaled / rows.length
    x = (torch.arange(columns.length) + 0.5) * columns.scaled / columns.length
    for top in rows.starts:
        for left in columns.starts:
            v, u = (y - top) / rows.window, (x - left) / columns.window
            grid = torch.stack(torch.meshgrid(2 * v - 1, 2 * u - 1, indexing="ij")[::-1], -1)
            logits = logits_of([(top, left)])[0].double()
            sampled = torch.nn.functional.grid_sample(
                logits,
                grid.expand(len(logits), -1, -1, -1).double(),
                padding_mode="border",
                align_corners=False,
            )
            gauss = torch.exp(-32 * ((v[:, None] - 0.5) ** 2 + (u[None] - 0.5) ** 2)).double()
            inside = (v >= 0)[:, None] & (v < 1)[:, None] & (u >= 0)[None] & (u < 1)[None]
            total = total + sampled * gauss * inside
            weight = weight + gauss * inside
    return total / weight


@st.composite
def axes(draw):
    length = draw(st.integers(1, 40))
    scale = draw(st.sampled_from([1.0, 0.5, 0.75, 1.7, 2.0]))
    window = draw(st.one_of(st.none(), st.integers(1, 50)))
    stride = draw(st.integers(1, 60)) if window else None
    return Axis.plan(length, scale, window, stride)


@settings(max_examples=60, deadline=None)
@given(axes())
def test_weights_of_all_windows_add_up_to_one(axis):
    total = torch.zeros(axis.length, dtype=torch.float64)
    for span, weights in zip(axis.spans, axis.weights, strict=True):
        assert len(span) == len(weights)
        total[span.start : span.stop] += weights
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    assert axis.starts[-1] + axis.window == axis.scaled
    assert [p for cell in axis.cells for p in cell] == list(range(axis.length))


def test_windows_step_by_the_stride_and_end_with_the_image():
    assert Axis.plan(2048, 1.0, 1024, 768).starts == (0, 768, 1024)
    assert Axis.plan(1024, 1.0, 1024, 768).starts == (0,)
    assert Axis.plan(100, 1.0, 30, 500).starts == (0, 30, 60, 70)  # no gap between windows
    half = Axis.plan(100, 0.5, 20, 15)
    assert (half.scaled, half.starts, half.spans[1]) == (50, (0, 15, 30), range(30, 70))


def test_gaussian_weights_by_hand():
    axis = Axis.plan(6, 1.0, 4, 2)
    # Windows 0..3 and 2..5; at pixel 2 the centres are half a pixel and one and a half away.
    near, far = np.exp(-0.5 * (0.5 / 0.5) ** 2), np.exp(-0.5 * (1.5 / 0.5) ** 2)
    expected = [1, 1, near / (near + far), far / (near + far)]
    np.testing.assert_allclose(axis.weights[0], expected)


@settings(max_examples=40, deadline=None)
@given(axes(), axes(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 2))
def test_decisions_equal_brute_force(rows, columns, num_labels, height, batch_size, images):
    logits_of, calls = random_logits(num_labels, (height, 3), images)
    expected = brute_force(logits_of, rows, columns)
    calls.clear()
    labels, confidence = decide(
        [BlendedLogits(logits_of, rows, columns, batch_size)], confidence=True
    )
    asked = [corner for call in calls for corner in call]
    assert len(set(asked)) == len(asked)
    # At twice the size a window of one pixel may hold no pixel's centre.
    tops, lefts = (
        [start for start, span in zip(axis.starts, axis.spans, strict=True) if span]
        for axis in (rows, columns)
    )
    assert set(product(tops, lefts)) <= set(asked) <= set(product(rows.starts, columns.starts))
    assert max(map(len, calls)) <= batch_size
    best = expected.topk(min(2, num_labels), dim=1).values
    clear = (best[:, 0] - best[:, -1] > 1e-5).numpy() | (num_labels == 1)
    np.testing.assert_array_equal(labels[clear], expected.argmax(1).numpy()[clear])
    np.testing.assert_allclose(confidence, expected.softmax(1).amax(1), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(axes(), axes(), st.data())
def test_several_views_average_their_softmax(rows, columns, data):
    others = [Axis.plan(axis.length, 0.6, 9, 4) for axis in (rows, columns)]
    logits_of, _ = random_logits(3, (4, 5))
    plans = [(rows, columns), tuple(others)]
    expected = sum(brute_force(logits_of, *plan).softmax(1) for plan in plans) / 2
    labels, confidence = decide(
        [BlendedLogits(logits_of, *plan, 2) for plan in plans], confidence=True
    )
    best = expected.topk(2, dim=1).values
    clear = (best[:, 0] - best[:, 1] > 1e-5).numpy()
    np.testing.assert_array_equal(labels[clear], expected.argmax(1).numpy()[clear])
    np.testing.assert_allclose(confidence, best[:, 0], atol=1e-3)


def test_cells_cut_into_strips_change_nothing(monkeypatch):
    rows, columns = Axis.plan(37, 1.0, 16, 12), Axis.plan(41, 1.0, 16, 12)
    logits_of, _ = random_logits(5, (4, 4))
    whole, _ = decide([BlendedLogits(logits_of, rows, columns, 4)])
    monkeypatch.setattr("aucseg_hf.sliding_window._MOST_SCORES", 100)
    strips, _ = decide([BlendedLogits(logits_of, rows, columns, 4)])
    np.testing.assert_array_equal(strips, whole)


def test_one_window_gives_what_interpolate_gives():
    logits_of, _ = random_logits(4, (9, 13))
    rows, columns = Axis.plan(35, 1.0), Axis.plan(50, 1.0)
    blended = BlendedLogits(logits_of, rows, columns, 1).logits(range(35), range(50))
    expected = torch.nn.functional.interpolate(
        logits_of([(0, 0)])[0], size=(35, 50), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(blended, expected, rtol=0, atol=1e-6)


def test_many_classes_have_wide_ids():
    axis = Axis.plan(4, 1.0)
    for num_labels, dtype in ((255, np.uint8), (256, np.uint16), (1000, np.uint16)):
        logits = torch.zeros(1, 1, num_labels, 2, 2)
        logits[:, :, -1] = 1
        labels, _ = decide([BlendedLogits(lambda corners, given=logits: given, axis, axis, 1)])
        assert labels.dtype == dtype
        assert (labels == num_labels - 1).all()


@pytest.mark.slow
def test_scores_of_all_classes_are_never_held_at_once():
    script = """
import resource
import torch
from aucseg_hf.sliding_window import Axis, BlendedLogits, decide
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
axis = Axis.plan(800, 1.0, 256, 192)
logits_of = lambda corners: torch.randn(len(corners), 1, 400, 64, 64)
logits_of([(0, 0)] * 4)
before = peak()
decide([BlendedLogits(logits_of, axis, axis, 4)], confidence=True)
print(peak() - before)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment
    )
    # All scores are 1 GB, and a row of windows at full size 0.3 GB.
    assert float(result.stdout) < 0.25, result.stdout
