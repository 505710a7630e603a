"""The compiled sweep: built once, never in the way, and the same as the PyTorch one."""

import multiprocessing
import subprocess

import pytest
import torch
from loss_reference import random_batch, relative_error, value_and_gradient

from aucseg_hf.losses import native, segmentation_loss

needs_compiler = pytest.mark.skipif(native.load_library() is None, reason="no C++ compiler")


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """An empty cache, as on a machine that has never run the loss."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load_library.cache_clear()
    yield tmp_path / "aucseg_hf"
    native.load_library.cache_clear()


def loss(logits, labels, **options):
    return segmentation_loss(logits, labels, **options).loss


@needs_compiler
@pytest.mark.parametrize("scheme", ["ovo", "ova"])
@pytest.mark.parametrize("surrogate", ["square", "hinge", "exp"])
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_both_sweeps_agree(scale, surrogate, scheme, monkeypatch):
    # Several bands of rows, several tiles of columns, the last ones incomplete.
    logits, labels = random_batch(
        classes=12, size=(40, 35), full=(157, 141), dtype=torch.float32, scale=scale
    )
    options = {"surrogate": surrogate, "scheme": scheme, "gamma": 1.3, "label_smoothing": 0.1}
    value, gradient = value_and_gradient(loss, logits, labels, **options)
    monkeypatch.setattr(native, "load_library", lambda: None)
    want, reference = value_and_gradient(loss, logits, labels, **options)
    assert value == pytest.approx(want, rel=1e-6)
    assert relative_error(gradient, reference) < 1e-6


@needs_compiler
@pytest.mark.parametrize(
    ("size", "full"), [((40, 35), (157, 141)), ((2, 3), (900, 9)), ((90, 4), (50, 4))]
)
def test_the_number_of_threads_changes_no_bit(size, full):
    logits, labels = random_batch(size=size, full=full, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(value_and_gradient(loss, logits, labels))
    torch.set_num_threads(before)
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_without_a_compiler_one_warning_and_the_same_loss(fresh_cache, monkeypatch):
    logits, labels = random_batch()
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler found") as caught:
        value = [loss(logits, labels).item() for _ in range(2)]
    assert len(caught) == 1
    native.load_library.cache_clear()
    monkeypatch.undo()
    assert value[0] == value[1] == pytest.approx(loss(logits, labels).item(), rel=1e-12)


def test_a_failing_compiler_is_no_failure(fresh_cache, monkeypatch):
    monkeypatch.setattr(native, "_OPTIONAL_FLAGS", (("--no-such-flag",),))
    with pytest.warns(RuntimeWarning, match="no-such-flag|no C\\+\\+ compiler"):
        assert native.load_library() is None
    assert not fresh_cache.exists() or not list(fresh_cache.iterdir())


def test_it_can_be_switched_off(monkeypatch, recwarn):
    monkeypatch.setenv("AUCSEG_COMPILED", "0")
    native.load_library.cache_clear()
    assert native.load_library() is None
    native.load_library.cache_clear()
    assert not recwarn.list


@needs_compiler
def test_flags_a_compiler_does_not_know_are_left_out(fresh_cache, monkeypatch):
    tried = []

    def compile_without_openmp(command, **kwargs):
        tried.append(command)
        if "-fopenmp" in command:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, 0, stdout=b"")

    monkeypatch.setattr(native.subprocess, "run", compile_without_openmp)
    native._compile("c++", fresh_cache / "sweep.so")
    assert ["-march=native" in command for command in tried] == [True, False, False]


def build_and_count(queue):
    labels = torch.tensor([[[0, 1, 1, 255]]])
    queue.put(native.count_labels(native.load_library(), labels, 3, 255).tolist())


@needs_compiler
@pytest.mark.slow
def test_processes_may_build_at_once(fresh_cache):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=build_and_count, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=200) for _ in processes] == [[1, 2, 0]] * 2
    for process in processes:
        process.join()
    assert [path.suffix for path in fresh_cache.iterdir()] == [".so"]
