import shutil
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from conftest import assert_same_state, tiny_config, write_pairs
from datasets import Image
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_dataset import NameKeeper, break_file
from test_trainer import make_trainer
from torch.utils.data import DataLoader
from transformers import SegformerImageProcessor

from aucseg_hf import ClassStatistics, InputError, SegmentationDataset, TrainAugmentation
from aucseg_hf.data import collate, load_benchmark
from aucseg_hf.data.streaming import SegmentationStream, shuffled

COUNT = 11


def write_parquet(pairs, folder, rows_per_shard=4):
    """The pairs as parquet shards with embedded files."""
    folder.mkdir()
    shutil.copy(pairs / "id2label.json", folder)
    for split in ("train", "val"):
        files = sorted((pairs / split / "images").iterdir())
        rows = [
            {
                "image": {"bytes": file.read_bytes(), "path": file.name},
                "label": {
                    "bytes": (pairs / split / "labels" / f"{file.stem}.png").read_bytes(),
                    "path": f"{file.stem}.png",
                },
            }
            for file in files
        ]
        features = datasets.Features({"image": Image(), "label": Image()})
        for k in range(0, len(rows), rows_per_shard):
            shard = datasets.Dataset.from_list(rows[k : k + rows_per_shard], features=features)
            shard.to_parquet(folder / f"{split}-{k // rows_per_shard:05}.parquet")
    return folder


def write_tars(pairs, folder, rows_per_shard=4):
    folder.mkdir()
    shutil.copy(pairs / "id2label.json", folder)
    for split in ("train", "val"):
        files = sorted((pairs / split / "images").iterdir())
        for k in range(0, len(files), rows_per_shard):
            with tarfile.open(folder / f"{split}-{k // rows_per_shard:05}.tar", "w") as tar:
                for file in files[k : k + rows_per_shard]:
                    tar.add(file, file.name)
                    tar.add(pairs / split / "labels" / f"{file.stem}.png", f"{file.stem}.png")
    return folder


@pytest.fixture(scope="module")
def module_pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "data", num_train=COUNT, size=(48, 40))


@pytest.fixture(scope="module")
def shards(module_pairs, tmp_path_factory):
    return write_parquet(module_pairs, tmp_path_factory.mktemp("shards") / "parquet")


def stream_of(folder, count=COUNT, **options):
    shards = load_benchmark(folder, streaming=True)
    options = {"augmentation": TrainAugmentation((32, 32)), "shuffle_buffer": 5, **options}
    return SegmentationStream(
        shards["train"],
        count,
        shards.info.label_rule,
        SegformerImageProcessor(),
        split="train",
        **options,
    )


def names_of(loader):
    return [name for batch in loader for name in batch["names"]]


def loader_of(stream, batch_size, workers=0, rank=0, ranks=1):
    """What accelerate makes of the stream in one of several processes."""
    if ranks > 1:
        stream = IterableDatasetShard(stream, batch_size, num_processes=ranks, process_index=rank)
    return DataLoader(stream, batch_size, num_workers=workers, collate_fn=collate)


# Order


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(0, 50), st.integers(0, 5))
def test_buffer_shuffles_within_its_reach_and_loses_nothing(count, buffer_size, seed):
    items = list(shuffled(range(count), buffer_size, np.random.default_rng(seed)))
    assert sorted(items) == list(range(count))
    # Item i is drawn at the earliest when it enters the buffer.
    assert all(position >= item - buffer_size for position, item in enumerate(items))
    assert items == list(shuffled(range(count), buffer_size, np.random.default_rng(seed)))


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_examples_equal_those_of_the_map_style_data_set(module_pairs, tmp_path, kind):
    write = {"parquet": write_parquet, "tar": write_tars}[kind]
    stream = stream_of(write(module_pairs, tmp_path / kind), seed=3)
    benchmark = load_benchmark(module_pairs)
    dataset = SegmentationDataset(
        benchmark["train"],
        benchmark.info.label_rule,
        SegformerImageProcessor(),
        TrainAugmentation((32, 32)),
        seed=3,
    )
    orders = []
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        dataset.set_epoch(epoch)
        expected = {Path(dataset[i]["name"]).name: dataset[i] for i in range(COUNT)}
        examples = list(stream)
        names = [example["name"] for example in examples]
        orders.append(names)
        assert sorted(names) == sorted(expected)
        for name, example in zip(names, examples, strict=True):
            for key in ("pixel_values", "labels"):
                torch.testing.assert_close(example[key], expected[name][key], rtol=0, atol=0)
    assert orders[0] != orders[1]
    assert len(stream) == COUNT


@pytest.mark.parametrize(("batch_size", "ranks"), [(2, 1), (3, 1), (1, 2), (2, 2), (3, 4)])
def test_every_record_once_across_processes_and_workers(shards, batch_size, ranks):
    stream = stream_of(shards, batch_size=batch_size, num_processes=ranks)
    plain = names_of(loader_of(stream_of(shards), COUNT))
    orders = []
    for workers in (0, 1, 2):
        batches = [
            list(loader_of(stream, batch_size, workers, rank, ranks)) for rank in range(ranks)
        ]
        assert len({len(rank) for rank in batches}) == 1
        assert len(batches[0]) == -(-COUNT // (batch_size * ranks))
        orders.append(
            [name for step in zip(*batches, strict=True) for b in step for name in b["names"]]
        )
    assert orders[0] == orders[1] == orders[2]
    # One process has a last batch that is smaller; several begin the epoch again.
    filled = len(orders[0]) - COUNT
    assert orders[0][:COUNT] == plain
    assert orders[0][COUNT:] == (plain * 2)[:filled]
    assert ranks > 1 or filled == 0


def test_each_process_decodes_only_its_own(shards, monkeypatch):
    stream = stream_of(shards, batch_size=2, num_processes=2)
    decoded = []
    pair = stream._maker.pair
    monkeypatch.setattr(
        stream._maker,
        "pair",
        lambda record, index, split: decoded.append(index) or pair(record, index, split),
    )
    names = names_of(loader_of(stream, 2, rank=1, ranks=2))
    assert len(decoded) == len(names) == 6


def test_wrong_lengths_and_sizes_are_errors(shards):
    for length, found in ((COUNT - 1, "more"), (COUNT + 1, "11")):
        stream = stream_of(shards)
        stream._length = length
        with pytest.raises(InputError, match=f"expected {length} records.* {found}"):
            list(stream)
    for name in ("batch_size", "num_processes"):
        with pytest.raises(InputError, match=f"{name} >= 1, got 0"):
            stream_of(shards, **{name: 0})


# Corrupt records


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_records_fail_or_are_replaced(tmp_path, workers):
    pairs = write_pairs(tmp_path / "data", num_train=COUNT)
    for name in ("images/004.jpg", "labels/007.png"):
        break_file(pairs / "train" / name)
    folder = write_parquet(pairs, tmp_path / "shards")
    with pytest.raises(InputError, match=r"cannot read 00[47]"):
        list(map(dict, stream_of(folder)))
    stream = stream_of(folder, batch_size=2, skip_corrupt=True, shuffle_buffer=0)
    names = names_of(loader_of(stream, 2, workers))
    # The other of the batch stands in.
    expected = [0, 1, 2, 3, 5, 5, 6, 6, 8, 9, 10]
    assert names == [f"{i:03}.jpg" for i in expected]
    assert stream.num_corrupt == 2
    alone = stream_of(folder, skip_corrupt=True, shuffle_buffer=0)
    assert [example["name"] for example in alone][4] == "003.jpg"


# Statistics


def test_statistics_of_a_stream(shards, module_pairs):
    whole = ClassStatistics.from_dataset(load_benchmark(module_pairs, split="train"), 4)
    streamed = ClassStatistics.from_dataset(load_benchmark(shards, streaming=True)["train"], 4)
    assert streamed.pixel_counts.tolist() == whole.pixel_counts.tolist()
    np.testing.assert_array_equal(streamed.presence, whole.presence)
    part = ClassStatistics.from_dataset(
        load_benchmark(shards, streaming=True)["train"], 4, max_images=4
    )
    assert part.num_images == 4
    assert part.image_counts.tolist() == [4, 4, 4, 2]


# Under the Trainer


def train_on_stream(shards, folder, workers=0, **options):
    stream = stream_of(shards, batch_size=2)
    arguments = {
        "max_steps": 12,  # epochs of 6 steps
        "per_device_train_batch_size": 2,
        "dataloader_num_workers": workers,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "tail_classes": ["3"],
    }
    trainer = make_trainer(
        folder,
        stream,
        config=tiny_config(attention_probs_dropout_prob=0.1),
        trainer_class=NameKeeper,
        **arguments,
    )
    trainer.train(**options)
    return trainer


@pytest.mark.slow
def test_resume_equals_an_uninterrupted_run(shards, tmp_path):
    """From the middle of the second epoch and from the end of the first, whatever the workers."""
    whole = train_on_stream(shards, tmp_path / "whole")
    names = [name for batch, _ in whole.seen for name in batch]
    assert len(set(names[:COUNT])) == len(set(names[COUNT:])) == COUNT
    assert names[:COUNT] != names[COUNT:]
    for stop, workers in ((3, 0), (6, 0), (8, 2)):
        folder = tmp_path / f"cut{stop}"
        shutil.copytree(tmp_path / f"whole/checkpoint-{stop}", folder / f"checkpoint-{stop}")
        resumed = train_on_stream(shards, folder, workers, resume_from_checkpoint=True)
        assert [batch for batch, _ in resumed.seen] == [batch for batch, _ in whole.seen[stop:]]
        assert_same_state(
            load_file(tmp_path / "whole/checkpoint-12/model.safetensors"),
            load_file(folder / "checkpoint-12/model.safetensors"),
        )
        assert_same_state(resumed.bank.state_dict(), whole.bank.state_dict())
