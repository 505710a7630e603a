import io
from collections import Counter

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from aucseg_hf.errors import InputError
from aucseg_hf.memory_bank import TailMemoryBank

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VOID = 255


def flat_batch(*values: float, size: int = 8) -> torch.Tensor:
    """Images of one value each, so that a pasted pixel tells which image it came from."""
    return torch.stack([torch.full((3, size, size), value) for value in values])


def scene(generator: torch.Generator, image_id: int, classes: int, size: int = 16):
    """An image filled with its own id, with random rectangles of random classes and some void."""
    label = torch.zeros(size, size, dtype=torch.int64)
    for class_id in (*torch.randperm(classes, generator=generator)[:3].tolist(), VOID):
        top, left, height, width = torch.randint(1, size // 2, (4,), generator=generator).tolist()
        label[top : top + height, left : left + width] = class_id
    return torch.full((3, size, size), float(image_id)), label


def random_batch(generator: torch.Generator, first_id: int, batch: int, classes: int, size=16):
    scenes = [scene(generator, first_id + i, classes, size) for i in range(batch)]
    return torch.stack([image for image, _ in scenes]), torch.stack([label for _, label in scenes])


def with_object(class_id: int, rows: slice, columns: slice, height: int = 8, width: int = 8):
    labels = torch.zeros(1, height, width, dtype=torch.int64)
    labels[0, rows, columns] = class_id
    return labels


def saved_and_loaded(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_empty_bank_returns_equal_copies():
    images, labels = flat_batch(1.0, 2.0), torch.zeros(2, 8, 8, dtype=torch.int64)
    bank = TailMemoryBank([1, 2])
    new_images, new_labels = bank(images, labels)
    assert torch.equal(new_images, images)
    assert torch.equal(new_labels, labels)
    assert new_images.data_ptr() != images.data_ptr()
    assert new_labels.data_ptr() != labels.data_ptr()
    assert len(bank) == bank.nbytes == 0
    assert bank.last_pasted == {}


def test_object_is_pasted_at_its_old_place_and_only_under_its_mask():
    bank = TailMemoryBank([3])
    labels = with_object(3, slice(2, 5), slice(4, 7))
    labels[0, 3, 5] = 0
    bank(flat_batch(9.0), labels)
    target = torch.full((1, 8, 8), VOID)
    image, label = bank(flat_batch(1.0), target)
    pasted = labels == 3
    assert torch.equal(label, torch.where(pasted, 3, VOID))
    assert torch.equal(image, torch.where(pasted[:, None], 9.0, 1.0).expand(1, 3, 8, 8))
    assert bank.last_pasted == {3: 8}


def test_a_batch_is_stored_before_it_is_filled():
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[1, 6, 2:5] = 1
    bank = TailMemoryBank([1, 2])
    images, new_labels = bank(flat_batch(5.0, 7.0), labels)
    assert torch.equal(new_labels[0], labels[1])
    assert torch.equal(images[0, 0] == 7, labels[1] == 1)
    assert torch.equal(new_labels[1], labels[1])
    assert torch.equal(images[1], flat_batch(7.0)[0])


def test_entries_are_copies_of_clean_images_for_ever():
    generator = torch.Generator().manual_seed(1)
    bank = TailMemoryBank(range(1, 6), memory_size=4, seed=3)
    objects = {}
    for step in range(60):
        images, labels = random_batch(generator, 10 * step, batch=3, classes=6)
        for image, label in zip(images, labels, strict=True):
            for class_id in set(label.unique().tolist()) & set(bank.tail_classes):
                objects[class_id, int(image[0, 0, 0])] = int((label == class_id).sum())
        new_images, new_labels = bank(images, labels)
        for tensor in (images, labels, new_images, new_labels):
            tensor.fill_(77)
        for class_id in bank.tail_classes:
            for pixels, mask in bank.crops(class_id):
                origin = pixels.unique()
                assert len(origin) == 1
                assert objects[class_id, int(origin)] == int(mask.sum())
    assert bank.fill == dict.fromkeys(range(1, 6), 4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 3),
    sizes=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    sample_ratio=st.sampled_from([0.05, 0.4, 1.0]),
    resize_ratio=st.sampled_from([0.1, 0.4, 0.75, 1.0]),
    scope=st.sampled_from(["image", "batch"]),
)
def test_image_and_label_change_at_the_same_pixels_and_nowhere_else(
    seed, batch, sizes, sample_ratio, resize_ratio, scope
):
    generator = torch.Generator().manual_seed(seed)
    bank = TailMemoryBank(
        [1, 2, 3, 4],
        sample_ratio=sample_ratio,
        resize_ratio=resize_ratio,
        scope=scope,
        seed=seed,
    )
    stored = set()
    for step in range(4):
        images, labels = random_batch(generator, 1 + 10 * step, batch, 5, sizes[step % 2])
        for image, label in zip(images, labels, strict=True):
            stored |= {(int(c), float(image[0, 0, 0])) for c in label.unique()}
        new_images, new_labels = bank(images, labels)
        changed = new_labels != labels
        assert torch.equal((new_images != images).any(1), changed)
        assert torch.equal((new_images != images).all(1), changed)
        pasted = Counter(new_labels[changed].tolist())
        assert pasted == Counter({c: n for c, n in bank.last_pasted.items() if n})
        for i in range(batch):
            lacking = labels if scope == "batch" else labels[i]
            new_classes = set(new_labels[i][changed[i]].tolist())
            assert not new_classes & set(lacking.unique().tolist())
            missing = {1, 2, 3, 4} - set(lacking.unique().tolist())
            assert len(new_classes) <= -(-len(missing) * round(sample_ratio * 100) // 100)
            for c in new_classes:
                # The values of flat images survive bilinear resizing only up to rounding.
                origins = new_images[i, :, changed[i] & (new_labels[i] == c)].round(decimals=3)
                assert origins.unique().numel() == 1
                assert (c, float(origins.flatten()[0])) in stored


@pytest.mark.parametrize(
    ("sample_ratio", "missing", "drawn"),
    [(1.0, 7, 7), (0.05, 100, 5), (0.05, 101, 6), (0.05, 1, 1), (0.07, 100, 7), (0.4, 4, 2)],
)
def test_number_of_drawn_classes(sample_ratio, missing, drawn):
    classes = list(range(1, missing + 1))
    labels = torch.zeros(2, 16, 16, dtype=torch.int64)
    labels[0].view(-1)[:missing] = torch.tensor(classes)
    bank = TailMemoryBank(classes, sample_ratio=sample_ratio)
    _, new_labels = bank(flat_batch(1.0, 2.0, size=16), labels)
    assert len(new_labels[1].unique()) - 1 == drawn
    assert torch.equal(new_labels[0], labels[0])


def test_classes_and_entries_are_drawn_uniformly():
    # Class 1 has three entries, classes 2 and 3 one; one class of the three is drawn for an image.
    bank = TailMemoryBank([1, 2, 3], sample_ratio=0.3, seed=5)
    for value in (10.0, 11.0, 12.0):
        labels = torch.zeros(1, 4, 4, dtype=torch.int64)
        labels[0, 0, 0] = 1
        if value == 10:
            labels[0, 0, 1:3] = torch.tensor([2, 3])
        bank(flat_batch(value, size=4), labels)
    images, labels = bank(torch.zeros(3000, 3, 4, 4), torch.zeros(3000, 4, 4, dtype=torch.int64))
    drawn = Counter(labels.flatten(1).amax(1).tolist())
    # 1000 each, with a standard deviation of 26; then a third of class 1, with one of 15.
    assert all(abs(drawn[c] - 1000) < 130 for c in (1, 2, 3))
    values = Counter(images[:, 0, 0, 0][labels[:, 0, 0] == 1].tolist())
    assert all(abs(values[v] - drawn[1] / 3) < 75 for v in (10, 11, 12))


def test_a_class_without_entries_uses_up_its_draw():
    bank = TailMemoryBank([1, 2], sample_ratio=0.5, seed=0)
    bank(flat_batch(1.0), with_object(1, slice(0, 1), slice(0, 1)))
    _, labels = bank(torch.zeros(1000, 3, 8, 8), torch.zeros(1000, 8, 8, dtype=torch.int64))
    # Half of the images draw class 2, which has nothing to give; standard deviation 16.
    assert abs(int((labels == 1).sum()) - 500) < 80


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_a_shrunken_frame_is_pasted_whole_at_every_place_of_the_image(ratio):
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (1, 3, 12, 10), generator=generator).float()
    label = with_object(4, slice(3, 10), slice(2, 9), 12, 10)
    label[0, 5:7, 4] = 0
    bank = TailMemoryBank([4], resize_ratio=ratio, seed=1)
    bank(frame, label)
    small = interpolate(frame, scale_factor=ratio, mode="bilinear")[0]
    mask = interpolate((label == 4).float()[None], scale_factor=ratio)[0, 0] > 0
    height, width = mask.shape
    expected = {}
    for top in range(12 - height + 1):
        for left in range(10 - width + 1):
            place = (slice(top, top + height), slice(left, left + width))
            target, canvas = torch.zeros(12, 10, dtype=torch.int64), torch.zeros(3, 12, 10)
            target[place][mask] = 4
            canvas[(slice(None), *place)][:, mask] = small[:, mask]
            expected[tuple(target.flatten().tolist())] = canvas
    images, labels = bank(torch.zeros(800, 3, 12, 10), torch.zeros(800, 12, 10, dtype=torch.int64))
    seen = set()
    for image, new_label in zip(images, labels, strict=True):
        key = tuple(new_label.flatten().tolist())
        torch.testing.assert_close(image, expected[key], rtol=1e-6, atol=1e-4)
        seen.add(key)
    assert seen == set(expected)


def test_an_object_from_a_larger_frame_is_moved_inside():
    bank = TailMemoryBank([1])
    bank(flat_batch(9.0, size=20), with_object(1, slice(15, 18), slice(2, 4), 20, 20))
    image, label = bank(flat_batch(0.0), torch.zeros(1, 8, 8, dtype=torch.int64))
    assert torch.equal(label, with_object(1, slice(5, 8), slice(2, 4)))
    assert torch.equal(image[:, 0] == 9, label == 1)


def test_an_object_larger_than_the_image_is_clipped():
    bank = TailMemoryBank([1])
    bank(flat_batch(9.0, size=20), with_object(1, slice(1, 19), slice(4, 6), 20, 20))
    image, label = bank(flat_batch(0.0), torch.zeros(1, 8, 8, dtype=torch.int64))
    assert torch.equal(label, with_object(1, slice(0, 8), slice(4, 6)))
    assert torch.equal(image[:, 0] == 9, label == 1)


def test_a_shrunken_frame_larger_than_the_image_still_gives_its_object():
    bank = TailMemoryBank([1], resize_ratio=0.5, seed=0)
    bank(flat_batch(9.0, size=40), with_object(1, slice(30, 36), slice(2, 8), 40, 40))
    for _ in range(20):
        image, label = bank(flat_batch(0.0), torch.zeros(1, 8, 8, dtype=torch.int64))
        assert bank.last_pasted == {1: 9}
        assert torch.equal(image[:, 0] == 9, label == 1)


def test_frames_shrunk_below_one_pixel_become_one_pixel():
    bank = TailMemoryBank([1], resize_ratio=0.1, seed=0)
    bank(flat_batch(9.0, size=3), torch.ones(1, 3, 3, dtype=torch.int64))
    image, label = bank(flat_batch(0.0, size=3), torch.zeros(1, 3, 3, dtype=torch.int64))
    assert int((label == 1).sum()) == 1
    assert torch.equal(image[:, 0] == 9, label == 1)


def test_an_object_that_no_sample_hits_pastes_nothing():
    bank = TailMemoryBank([1], resize_ratio=0.1, seed=0)
    bank(flat_batch(9.0, size=20), with_object(1, slice(3, 6), slice(3, 6), 20, 20))
    image, label = bank(flat_batch(0.0, size=20), torch.zeros(1, 20, 20, dtype=torch.int64))
    assert int(label.sum()) == int(image.sum()) == 0
    assert bank.last_pasted == {1: 0}


@pytest.mark.parametrize(
    ("replacement", "kept"),
    [("fifo", [3.0, 4.0, 5.0]), ("lifo", [1.0, 2.0, 5.0])],
)
def test_replacement_of_a_full_memory(replacement, kept):
    bank = TailMemoryBank([1], memory_size=3, replacement=replacement)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        bank(flat_batch(value), with_object(1, slice(0, 2), slice(0, 2)))
    assert [float(pixels[0, 0, 0]) for pixels, _ in bank.crops(1)] == kept


def test_priority_used_gives_up_what_retrieval_has_used():
    bank = TailMemoryBank([1], memory_size=3, replacement="priority_used", seed=0)
    for value in (1.0, 2.0, 3.0):
        bank(flat_batch(value), with_object(1, slice(0, 2), slice(0, 2)))
    image, _ = bank(flat_batch(0.0), torch.zeros(1, 8, 8, dtype=torch.int64))
    used = float(image.max())
    bank(flat_batch(4.0), with_object(1, slice(0, 2), slice(0, 2)))
    kept = [float(pixels[0, 0, 0]) for pixels, _ in bank.crops(1)]
    assert kept == [value for value in (1.0, 2.0, 3.0, 4.0) if value != used]


def test_random_replacement_keeps_old_entries_with_the_right_chance():
    kept = 0
    for seed in range(300):
        bank = TailMemoryBank([1], memory_size=2, seed=seed)
        for value in (1.0, 2.0, 3.0, 4.0):
            bank(flat_batch(value, size=2), torch.ones(1, 2, 2, dtype=torch.int64))
        values = [float(pixels[0, 0, 0]) for pixels, _ in bank.crops(1)]
        assert values[-1] == 4
        kept += 1.0 in values
    # An entry survives two replacements with probability 1/4: 75, with a standard deviation of 7.5.
    assert 40 < kept < 110


def test_scope_batch_fills_only_what_the_whole_batch_lacks():
    bank = TailMemoryBank([1, 2], scope="batch")
    first = torch.zeros(1, 8, 8, dtype=torch.int64)
    first[0, 0, 0], first[0, 1, 1] = 1, 2
    bank(flat_batch(3.0), first)
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[1, 5, 5] = 1
    _, new_labels = bank(flat_batch(0.0, 0.0), labels)
    assert new_labels[0].unique().tolist() == [0, 2]
    assert new_labels[1].unique().tolist() == [0, 1, 2]


def global_batch_worker(rank: int, rendezvous: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    for name, group in (("all", None), ("alone", dist.new_subgroups(1)[0])):
        bank = TailMemoryBank([1, 2], scope="batch", process_group=group, seed=rank)
        both = torch.zeros(1, 8, 8, dtype=torch.int64)
        both[0, 0, 0], both[0, 1, 1] = 1, 2
        bank(flat_batch(3.0), both)
        labels = torch.zeros(1, 8, 8, dtype=torch.int64)
        # Class 1 is in the batch of rank 1 alone, class 2 in none.
        labels[0, 5, 5] = rank
        torch.save(bank(flat_batch(0.0), labels)[1], f"{folder}/{name}_{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_scope_batch_means_the_batch_of_all_ranks(tmp_path):
    mp.spawn(global_batch_worker, (f"file://{tmp_path}/rendezvous", str(tmp_path)), nprocs=2)
    present = {
        path.stem: torch.load(path, weights_only=True).unique().tolist()
        for path in tmp_path.glob("*.pt")
    }
    assert present == {
        "all_0": [0, 2],
        "all_1": [0, 1, 2],
        "alone_0": [0, 1, 2],
        "alone_1": [0, 1, 2],
    }


def test_small_objects_are_not_stored_but_count_as_present():
    bank = TailMemoryBank([1], min_pixels=4)
    big, small = with_object(1, slice(0, 2), slice(0, 2)), with_object(1, slice(0, 1), slice(0, 3))
    bank(flat_batch(1.0), small)
    assert len(bank) == 0
    bank(flat_batch(1.0), big)
    _, labels = bank(flat_batch(2.0), small)
    assert len(bank) == 1
    assert torch.equal(labels, small)


def test_only_the_own_generator_decides():
    def run(global_seed: int, seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        bank = TailMemoryBank([1, 2, 3, 4], resize_ratio=0.5, sample_ratio=0.5, seed=seed)
        generator = torch.Generator().manual_seed(0)
        before = torch.get_rng_state()
        batches = [bank(*random_batch(generator, i, 2, 5))[1] for i in range(10)]
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat(batches)

    assert torch.equal(run(1, seed=0), run(2, seed=0))
    assert not torch.equal(run(1, seed=0), run(1, seed=1))


@pytest.mark.parametrize("replacement", ["random", "priority_used"])
@pytest.mark.parametrize("resize_ratio", [0.4, 1.0])
def test_resuming_half_way_equals_going_straight(replacement, resize_ratio):
    options = {
        "tail_classes": range(1, 7),
        "resize_ratio": resize_ratio,
        "sample_ratio": 0.5,
        "replacement": replacement,
        "image_mean": MEAN,
        "image_std": STD,
    }
    bank = TailMemoryBank(**options, seed=1)
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(generator, i, 2, 8) for i in range(200)]
    for batch in batches[:100]:
        bank(*batch)
    resumed = TailMemoryBank(**options, seed=99)
    resumed.load_state_dict(saved_and_loaded(bank.state_dict()))
    assert resumed.fill == bank.fill
    for batch in batches[100:]:
        for straight, again in zip(bank(*batch), resumed(*batch), strict=True):
            assert torch.equal(straight, again)


def test_state_of_other_options_is_refused_with_both_values():
    state = TailMemoryBank([1, 2], memory_size=3).state_dict()
    with pytest.raises(InputError, match=r"memory_size=5, got memory_size=3"):
        TailMemoryBank([1, 2]).load_state_dict(state)
    with pytest.raises(InputError, match=r"tail_classes=\[1, 4\].*got tail_classes=\[1, 2\]"):
        TailMemoryBank([1, 4], memory_size=3).load_state_dict(state)
    with pytest.raises(InputError, match=r"without \['config', 'generator', 'memory'\]"):
        TailMemoryBank([1, 2]).load_state_dict({})


def filled_states(ranks: int, entries: int, memory_size: int = 5) -> list[dict]:
    states = []
    for rank in range(ranks):
        bank = TailMemoryBank([1, 2], memory_size=memory_size, replacement="fifo", seed=rank)
        for i in range(entries):
            labels = with_object(1, slice(0, 1), slice(0, 1))
            if i == 0 and rank == 0:
                labels[0, 7, 7] = 2
            bank(flat_batch(10.0 * rank + i), labels)
        states.append(bank.state_dict())
    return states


def values_of(state: dict, class_id: int) -> list[float]:
    return [float(entry["pixels"][0, 0, 0]) for entry in state["memory"][class_id]]


def test_redistribute_to_more_ranks_deals_every_entry_once():
    states = filled_states(ranks=2, entries=3)
    dealt = TailMemoryBank.redistribute(states, 3)
    # Newest first the pool is 2, 12, 1, 11, 0, 10; each memory is ordered oldest first again.
    assert [values_of(state, 1) for state in dealt] == [[11, 2], [0, 12], [10, 1]]
    assert [values_of(state, 2) for state in dealt] == [[], [0], []]
    banks = [TailMemoryBank([1, 2], replacement="fifo") for _ in dealt]
    for bank, state in zip(banks, dealt, strict=True):
        bank.load_state_dict(saved_and_loaded(state))
    assert [bank.fill for bank in banks] == [{1: 2, 2: 0}, {1: 2, 2: 1}, {1: 2, 2: 0}]


def test_redistribute_to_fewer_ranks_keeps_the_newest():
    dealt = TailMemoryBank.redistribute(filled_states(ranks=3, entries=2, memory_size=2), 1)
    assert [values_of(state, 1) for state in dealt] == [[11, 1]]


def test_redistribute_gives_each_rank_its_own_reproducible_generator():
    states = filled_states(ranks=2, entries=1)
    first, again = (TailMemoryBank.redistribute(states, 3) for _ in range(2))
    generators = [state["generator"] for state in first]
    for generator, same in zip(generators, again, strict=True):
        assert torch.equal(generator, same["generator"])
    for other in [*generators[1:], states[0]["generator"], states[1]["generator"]]:
        assert not torch.equal(generators[0], other)


def test_redistribute_refuses_what_does_not_belong_together():
    states = [TailMemoryBank([1], memory_size=size).state_dict() for size in (2, 3)]
    with pytest.raises(InputError, match="memory_size=2, got memory_size=3"):
        TailMemoryBank.redistribute(states, 2)
    with pytest.raises(InputError, match="0 states and world_size=2"):
        TailMemoryBank.redistribute([], 2)
    with pytest.raises(InputError, match="1 states and world_size=0"):
        TailMemoryBank.redistribute(states[:1], 0)


@pytest.mark.parametrize(
    ("options", "bytes_per_pixel"),
    [({"image_mean": MEAN, "image_std": STD}, 4), ({}, 7)],
)
def test_bytes_are_those_of_the_boxes(options, bytes_per_pixel):
    labels = with_object(1, slice(30, 40), slice(50, 70), 128, 128)
    bank = TailMemoryBank([1], **options)
    bank(flat_batch(0.5, size=128), labels)
    assert bank.nbytes == 10 * 20 * bytes_per_pixel
    # Half size: a margin of 3 pixels on each side.
    bank = TailMemoryBank([1], resize_ratio=0.5, **options)
    bank(flat_batch(0.5, size=128), labels)
    assert bank.nbytes == 16 * 26 * bytes_per_pixel


def test_8_bit_images_come_back_exactly():
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (1, 3, 8, 8), generator=generator)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    images = (levels - mean * 255) / (std * 255)
    bank = TailMemoryBank([1], image_mean=MEAN, image_std=STD)
    bank(images, torch.ones(1, 8, 8, dtype=torch.int64))
    pasted, _ = bank(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64))
    assert torch.equal(pasted, images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "label_dtype", [torch.uint8, torch.int8, torch.uint16, torch.int32, torch.int64]
)
def test_dtypes_and_memory_format_are_kept(dtype, label_dtype):
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[0, 1:3, 4:7] = 100
    # Labels below zero, where the dtype has them, and far above every tail class are no tail class.
    labels[:, 7, 7] = -100 if label_dtype.is_signed else 250
    images = flat_batch(3.0, 4.0).to(dtype).contiguous(memory_format=torch.channels_last)
    new_images, new_labels = TailMemoryBank([5, 100])(images, labels.to(label_dtype))
    assert (new_images.dtype, new_labels.dtype) == (dtype, label_dtype)
    assert new_images.is_contiguous(memory_format=torch.channels_last)
    expected = labels.clone()
    expected[1, 1:3, 4:7] = 100
    assert torch.equal(new_labels.long(), expected)
    assert torch.equal(new_images[1, 0] == 3, expected[1] == 100)


def test_negative_labels_are_not_class_0():
    bank = TailMemoryBank([0])
    labels = torch.full((2, 8, 8), -100)
    labels[0, 2, 3] = 0
    _, new_labels = bank(flat_batch(1.0, 2.0), labels)
    assert bank.fill == {0: 1}
    assert torch.equal(new_labels, labels[:1].expand(2, 8, 8))


def test_an_image_without_valid_pixels_is_filled():
    bank = TailMemoryBank([1])
    bank(flat_batch(1.0), with_object(1, slice(0, 2), slice(0, 2)))
    _, labels = bank(flat_batch(2.0), torch.full((1, 8, 8), VOID))
    assert torch.equal(labels == 1, with_object(1, slice(0, 2), slice(0, 2)) == 1)
    assert int((labels == VOID).sum()) == 60


def test_all_classes_remembers_every_class_but_void():
    assert TailMemoryBank.all_classes(4, memory_size=2).tail_classes == (0, 1, 2, 3)
    assert TailMemoryBank.all_classes(4, ignore_index=0).tail_classes == (1, 2, 3)
    bank = TailMemoryBank.all_classes(3)
    bank(flat_batch(1.0), with_object(2, slice(0, 2), slice(0, 2)))
    assert bank.fill == {0: 1, 1: 0, 2: 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tail_classes": []}, r"one or more distinct tail classes, got \[\]"),
        ({"tail_classes": [1, 1]}, r"distinct tail classes, got \[1, 1\]"),
        ({"tail_classes": [1, 19], "num_labels": 19}, r"in \[0, 19\), got \[19\]"),
        ({"tail_classes": [-1, 2]}, r"in \[0, inf\), got \[-1\]"),
        ({"tail_classes": [3, 255]}, "without ignore_index 255"),
        ({"memory_size": 0}, "memory_size to be a whole number >= 1, got 0"),
        ({"memory_size": 2.5}, "memory_size to be a whole number >= 1, got 2.5"),
        ({"min_pixels": 0}, "min_pixels to be a whole number >= 1, got 0"),
        ({"sample_ratio": 0.0}, r"sample_ratio in \(0, 1\], got 0.0"),
        ({"resize_ratio": 1.5}, r"resize_ratio in \(0, 1\], got 1.5"),
        ({"resize_ratio": float("nan")}, "got nan"),
        ({"replacement": "oldest"}, "random, fifo, lifo, priority_used, got 'oldest'"),
        ({"scope": "world"}, "image, batch, got 'world'"),
        ({"image_mean": MEAN}, "both image_mean and image_std"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        TailMemoryBank(**{"tail_classes": [1], **options})


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(3, 8, 8), torch.zeros(8, 8).long(), r"\[B, 3, H, W\].*got \[3, 8, 8\]"),
        (torch.zeros(0, 3, 8, 8), torch.zeros(0, 8, 8).long(), r"none 0, got \[0, 3, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 9).long(), r"\[1, 8, 8\].*got \[1, 8, 9\]"),
        (torch.zeros(1, 3, 8, 8).byte(), torch.zeros(1, 8, 8).long(), "got torch.uint8"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), "integer dtype, got torch.float32"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8).char(), "tail class 200, got torch.int8"),
        (
            torch.zeros(1, 3, 8, 8),
            torch.zeros(1, 8, 8, dtype=torch.int64, device="meta"),
            "device of pixel_values, cpu, got meta",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused(images, labels, words):
    with pytest.raises(InputError, match=words):
        TailMemoryBank([200])(images, labels)
