import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import (
    brute_force_auc,
    random_batch,
    reference_ce,
    relative_error,
    value_and_gradient,
)
from test_auc import sweep  # noqa: F401 (a fixture)
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from aucseg_hf.errors import InputError
from aucseg_hf.losses import SegmentationLoss, pixel_auc_loss, segmentation_loss

WEIGHTS = [1.0, 0.5, 2.0, 0.0, 3.0]


def total(logits, labels, **options):
    return segmentation_loss(logits, labels, **options).loss


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("size", [(4, 5), (9, 11), (12, 3)])
def test_cross_entropy_is_that_of_torch(size, weights, smoothing):
    logits, labels = random_batch(size=size)
    want, gradient = value_and_gradient(reference_ce, logits, labels, weights, smoothing)
    options = {"class_weights": weights, "label_smoothing": smoothing}
    value, got = value_and_gradient(total, logits, labels, auc_weight=0.0, **options)
    assert value == pytest.approx(want, rel=1e-12)
    assert relative_error(got, gradient) < 1e-12
    assert segmentation_loss(logits, labels, **options).ce.item() == pytest.approx(want, rel=1e-12)


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("surrogate", ["square", "hinge", "exp", "logistic"])
def test_loss_is_the_weighted_sum(surrogate):
    logits, labels = random_batch()
    ce, ce_gradient = value_and_gradient(reference_ce, logits, labels, WEIGHTS, 0.1)
    auc, auc_gradient = value_and_gradient(brute_force_auc, logits, labels, surrogate)
    options = {"class_weights": torch.tensor(WEIGHTS), "label_smoothing": 0.1}
    options |= {"ce_weight": 0.25, "auc_weight": 2.0, "surrogate": surrogate}
    value, got = value_and_gradient(total, logits, labels, **options)
    assert value == pytest.approx(0.25 * ce + 2 * auc, rel=1e-12)
    assert relative_error(got, 0.25 * ce_gradient + 2 * auc_gradient) < 1e-12
    output = segmentation_loss(logits, labels, **options)
    assert output.ce.item() == pytest.approx(ce, rel=1e-12)
    assert output.auc.item() == pytest.approx(auc, rel=1e-12)
    assert not output.ce.requires_grad
    assert not output.auc.requires_grad


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_label_dtypes(dtype):
    logits, labels = random_batch()
    want = segmentation_loss(logits, labels)
    ignore_index = 100 if dtype == torch.int8 else 255
    labels = labels.masked_fill(labels == 255, ignore_index).to(dtype)
    got = segmentation_loss(logits, labels, ignore_index=ignore_index)
    assert got == want


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("ignore_index", [-100, -1, 2, 1000])
def test_ignore_index(ignore_index):
    logits, labels = random_batch()
    labels = torch.where(labels == 255, ignore_index, labels)
    want = reference_ce(logits, labels, ignore_index=ignore_index)
    auc = brute_force_auc(logits, labels, ignore_index=ignore_index)
    output = segmentation_loss(logits, labels, ignore_index=ignore_index)
    assert output.ce.item() == pytest.approx(want.item(), rel=1e-12)
    assert output.auc.item() == pytest.approx(auc.item(), rel=1e-12)


@pytest.mark.usefixtures("sweep")
def test_micro_batches_equal_their_concatenation():
    logits, labels = random_batch(batch=5)
    want, gradient = value_and_gradient(total, logits, labels, surrogate="exp")
    parts = [part.clone().requires_grad_() for part in logits.split([2, 1, 2])]
    output = segmentation_loss(parts, labels.split([2, 1, 2]), surrogate="exp")
    output.loss.backward()
    assert output.loss.item() == pytest.approx(want, rel=1e-12)
    assert relative_error(torch.cat([part.grad for part in parts]), gradient) < 1e-12


def test_micro_batches_of_different_sizes():
    first, second = random_batch(), random_batch(batch=1, size=(3, 7), full=(8, 13), seed=1)
    scores, ids = [], []
    for logits, labels in (first, second):
        z = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
        scores.append(z.movedim(1, -1)[labels != 255])
        ids.append(labels[labels != 255])
    # All pixels as the columns of one image.
    pixels, ids = torch.cat(scores).t()[None, :, None], torch.cat(ids)[None, None]
    want = segmentation_loss(pixels, ids)
    got = segmentation_loss([first[0], second[0]], [first[1], second[1]])
    torch.testing.assert_close(list(got), list(want), rtol=1e-12, atol=0)


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_valid_pixels_everything_is_zero(smoothing):
    logits, labels = random_batch()
    module = SegmentationLoss(label_smoothing=smoothing)
    value, gradient = value_and_gradient(
        lambda z: module(z, torch.full_like(labels, 255)).loss, logits
    )
    assert value == 0
    assert not gradient.any()
    only_weightless = torch.full_like(labels, 3)
    value, gradient = value_and_gradient(total, logits, only_weightless, class_weights=WEIGHTS)
    assert value == 0
    assert not gradient.any()


@pytest.mark.usefixtures("sweep")
def test_empty_batch():
    logits = torch.zeros(0, 5, 4, 4, requires_grad=True)
    output = segmentation_loss(logits, torch.zeros(0, 8, 8, dtype=torch.long))
    output.loss.backward()
    assert [part.item() for part in output] == [0, 0, 0]
    assert logits.grad.shape == logits.shape


@pytest.mark.usefixtures("sweep")
def test_the_callers_tensors_stay_as_they_are():
    logits, labels = random_batch(size=(9, 11))
    before = logits.clone(), labels.clone()
    segmentation_loss(logits.requires_grad_(), labels, label_smoothing=0.1).loss.backward()
    assert torch.equal(logits, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.usefixtures("sweep")
def test_strided_inputs():
    logits, labels = random_batch(batch=4)
    want = segmentation_loss(logits[::2].contiguous(), labels[::2].contiguous())
    assert segmentation_loss(logits[::2], labels[::2]) == want
    turned = logits[::2].contiguous(memory_format=torch.channels_last)
    assert segmentation_loss(turned, labels[::2]) == want


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("magnitude", [100.0, 1e4, 3e38])
def test_extreme_logits(magnitude):
    logits, labels = random_batch(dtype=torch.float32)
    logits = logits.clamp(-1, 1) * magnitude
    want, gradient = value_and_gradient(reference_ce, logits.double(), labels)
    value, got = value_and_gradient(total, logits, labels, auc_weight=0.0)
    assert value == pytest.approx(want, rel=1e-5)
    assert relative_error(got, gradient) < 1e-4


@pytest.mark.usefixtures("sweep")
def test_gradients_float16_can_hold_survive_the_loss_scale():
    logits, labels = random_batch(batch=1, size=(32, 32), full=(128, 128), dtype=torch.float16)
    options = {"ce_weight": 1e-4, "auc_weight": 1e-4}
    _, gradient = value_and_gradient(total, logits.double(), labels, **options)
    _, got = value_and_gradient(lambda z: 65536 * total(z, labels, **options), logits)
    _, unscaled = value_and_gradient(total, logits, labels, **options)
    assert relative_error(got / 65536, gradient) < 1e-3
    assert (got == 0).double().mean() < 0.01
    assert (unscaled == 0).double().mean() > 0.5


def test_gradcheck_of_everything():
    logits, labels = random_batch(classes=4, size=(2, 3), full=(5, 4))
    assert gradcheck(
        lambda z: total(z, labels, class_weights=[1.0, 2.0, 3.0, 4.0], label_smoothing=0.2),
        logits.requires_grad_(),
    )


def test_double_backward_is_refused():
    logits, labels = random_batch()
    logits.requires_grad_()
    for options in ({}, {"score": "softmax"}):
        loss = total(logits, labels, **options)
        with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
            torch.autograd.grad(loss, logits, create_graph=True)


def test_backward_twice_with_a_retained_graph():
    logits, labels = random_batch()
    logits.requires_grad_()
    loss = total(logits, labels)
    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    (3 * loss).backward()
    torch.testing.assert_close(logits.grad, 4 * once)


@pytest.mark.usefixtures("sweep")
def test_autocast_does_not_reach_inside():
    logits, labels = random_batch(dtype=torch.float32, full=(16, 20))
    want, gradient = value_and_gradient(total, logits, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, got = value_and_gradient(total, logits, labels)
        softmax, _ = value_and_gradient(total, logits, labels, score="softmax")
    assert value == want
    assert torch.equal(got, gradient)
    assert softmax == total(logits, labels, score="softmax").item()


def test_no_grad_and_detached_inputs():
    logits, labels = random_batch()
    want = total(logits.requires_grad_(), labels)
    with torch.no_grad():
        assert total(logits, labels) == want
    assert not total(logits.detach(), labels).requires_grad


def test_gradient_checkpointing():
    logits, labels = random_batch()
    want, gradient = value_and_gradient(lambda z: total(2 * z, labels), logits)
    for reentrant in (False, True):
        value, got = value_and_gradient(
            lambda z, r=reentrant: checkpoint(lambda x: total(2 * x, labels), z, use_reentrant=r),
            logits,
        )
        assert value == want
        assert torch.equal(got, gradient)


def test_compiled_training_step():
    logits, labels = random_batch(dtype=torch.float32)
    want, gradient = value_and_gradient(lambda z: total(2 * z, labels) + z.mean(), logits)
    torch.compiler.reset()
    step = torch.compile(lambda z: total(2 * z, labels) + z.mean(), backend="aot_eager")
    value, got = value_and_gradient(step, logits)
    assert value == pytest.approx(want, rel=1e-6)
    torch.testing.assert_close(got, gradient)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4]), st.integers(2, 30))
def test_random_shapes(seed, batch, classes):
    generator = torch.Generator().manual_seed(seed)
    h, w, rows, columns = torch.randint(1, 40, (4,), generator=generator).tolist()
    logits, labels = random_batch(batch, classes, (h, w), (rows, columns), seed=seed)
    labels[0, 0, 0] = 0
    want, gradient = value_and_gradient(reference_ce, logits, labels)
    value, got = value_and_gradient(total, logits, labels, auc_weight=0.0)
    assert value == pytest.approx(want, rel=1e-12)
    assert relative_error(got, gradient) < 1e-12


def test_module_is_the_function_and_can_be_copied():
    logits, labels = random_batch(dtype=torch.float32)
    options = {"ce_weight": 0.5, "auc_weight": 2.0, "class_weights": WEIGHTS}
    options |= {"label_smoothing": 0.1, "surrogate": "hinge", "scheme": "ova", "gamma": 2.0}
    module = copy.deepcopy(SegmentationLoss(**options))
    assert module(logits, labels) == segmentation_loss(logits, labels, **options)
    assert module.state_dict() == {}
    assert module.half()(logits, labels).ce == segmentation_loss(logits, labels, **options).ce
    for part in ("ce_weight=0.5", "class_weights=[5]", "surrogate='hinge'", "gamma=2.0"):
        assert part in repr(module)


ZEROS = torch.zeros(2, 19, 4, 4)
LABELS = torch.zeros(2, 8, 8, dtype=torch.long)


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (ZEROS, LABELS + 37, "labels contain id 37, expected 0..18 or ignore_index 255"),
        (ZEROS, LABELS - 1, "labels contain id -1, expected 0..18"),
        (ZEROS, LABELS[:1], "match logits batch 2, got 1"),
        (ZEROS, LABELS[0], r"expected labels \[B,H,W\] of class ids, got shape \[8, 8\]"),
        (ZEROS, LABELS.float(), "integer dtype, got torch.float32"),
        (ZEROS, LABELS.bool(), "integer dtype, got torch.bool"),
        (ZEROS.long(), LABELS, "floating-point logits, got torch.int64"),
        (ZEROS[0], LABELS, r"expected logits \[B,C,h,w\], got shape \[19, 4, 4\]"),
        (ZEROS[:, :1], LABELS, "at least 2 classes, got 1"),
        (ZEROS[..., :0], LABELS, r"non-empty logits, got shape \[2, 19, 4, 0\]"),
        ([ZEROS], [LABELS, LABELS], "got 2 and 1"),
        ([], [], "at least one, got 0 and 0"),
        ([ZEROS, ZEROS[:, :3]], [LABELS, LABELS], "one number of classes"),
    ],
)
def test_bad_inputs(logits, labels, message):
    with pytest.raises(InputError, match=message):
        segmentation_loss(logits, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ce_weight": -1.0}, "expected a finite ce_weight >= 0, got -1.0"),
        ({"auc_weight": float("inf")}, "expected a finite auc_weight >= 0, got inf"),
        ({"label_smoothing": 1.5}, r"expected label_smoothing in \[0, 1\], got 1.5"),
        ({"class_weights": [1.0, -2.0]}, "got -2.0 for class 1"),
        ({"class_weights": [[1.0]]}, r"expected class_weights \[C\]"),
        ({"surrogate": "cube"}, "got 'cube'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        SegmentationLoss(**options)


def test_class_weights_of_another_number_of_classes():
    with pytest.raises(InputError, match="expected class_weights of 5 classes, got 2"):
        segmentation_loss(*random_batch(), class_weights=[1.0, 2.0])


def test_anomaly_mode_names_non_finite_logits():
    logits, labels = random_batch()
    logits[0, 0, 0, 0], logits[0, 1, 2, 2] = float("nan"), float("inf")
    with (
        torch.autograd.detect_anomaly(check_nan=True),
        pytest.raises(InputError, match="expected finite logits, got 2 non-finite of 200 values"),
    ):
        pixel_auc_loss(logits, labels)


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("channel", [0, 4])
def test_non_finite_logits_are_not_hidden(channel):
    logits, labels = random_batch()
    logits[0, channel, 0, 0] = float("nan")
    labels[:, 0] = 1
    assert segmentation_loss(logits, labels).loss.isnan()
