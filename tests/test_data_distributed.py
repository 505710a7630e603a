"""Two real processes (gloo): every example once an epoch, exact resuming."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_same_state, write_pairs
from safetensors.torch import load_file
from test_dataset import NameKeeper, dataset_of
from test_streaming import stream_of, write_parquet
from test_trainer import make_trainer

from aucseg_hf import ClassStatistics, TrainAugmentation, load_benchmark
from aucseg_hf.data.sampling import RepeatFactorDataset, repeat_factors

COUNT = 12
STOP = 4  # in the second epoch of three steps
KINDS = ("uniform", "repeat_factor", "streaming")


def train(kind, data, folder, batch_size, ranks, **options):
    """Trains eight steps on a data set; returns the names of each step on this rank."""
    augmentation = TrainAugmentation((32, 32))
    if kind == "streaming":
        dataset = stream_of(data / "shards", COUNT, batch_size=batch_size, num_processes=ranks)
    else:
        dataset = dataset_of(data / "pairs", augmentation=augmentation)
    if kind == "repeat_factor":
        statistics = ClassStatistics.from_dataset(load_benchmark(data / "pairs")["train"], 4)
        dataset = RepeatFactorDataset(dataset, repeat_factors(statistics.presence, 1.0))
    trainer = make_trainer(
        folder,
        dataset,
        trainer_class=NameKeeper,
        max_steps=8,
        per_device_train_batch_size=batch_size,
        dataloader_num_workers=2 if kind == "streaming" else 0,
        save_strategy="steps",
        save_steps=STOP,
        tail_classes=["3"],
    )
    assert trainer.args.world_size == ranks
    trainer.train(**options)
    return [[Path(name).name for name in names] for names, _ in trainer.seen]


def main(folder):
    rank = int(os.environ["RANK"])
    seen = {}
    for kind in KINDS:
        whole, cut = folder / f"{kind}-whole", folder / f"{kind}-cut"
        seen[kind] = train(kind, folder, whole, 2, 2)
        if rank == 0:
            shutil.copytree(whole / f"checkpoint-{STOP}", cut / f"checkpoint-{STOP}")
        torch.distributed.barrier()
        seen[f"{kind} resumed"] = train(kind, folder, cut, 2, 2, resume_from_checkpoint=True)
    (folder / f"seen{rank}.json").write_text(json.dumps(seen))


@pytest.mark.slow
def test_two_processes_see_what_one_sees_and_resume(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", num_train=COUNT)
    write_parquet(pairs, tmp_path / "shards")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", "29613", __file__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    ranks = [json.loads((tmp_path / f"seen{rank}.json").read_text()) for rank in range(2)]
    for kind in KINDS:
        steps = [a + b for a, b in zip(ranks[0][kind], ranks[1][kind], strict=True)]
        one = train(kind, tmp_path, tmp_path / f"{kind}-one", 4, 1)
        # An epoch of 15 repeated images ends with a batch that two processes fill up.
        assert [two[: len(names)] for two, names in zip(steps, one, strict=True)] == one
        assert {len(names) for names in one} == ({3, 4} if kind == "repeat_factor" else {4})
        if kind != "repeat_factor":
            for epoch in range(2):
                names = [name for step in steps[3 * epoch : 3 * epoch + 3] for name in step]
                assert sorted(names) == [f"{i:03}.jpg" for i in range(COUNT)]
        for rank in ranks:
            assert rank[f"{kind} resumed"] == rank[kind][STOP:]
        whole, cut = (tmp_path / f"{kind}-{run}" / "checkpoint-8" for run in ("whole", "cut"))
        for file in ("memory_bank_0.pt", "memory_bank_1.pt"):
            assert_same_state(torch.load(whole / file), torch.load(cut / file))
        weights = "model.safetensors"
        assert_same_state(load_file(whole / weights), load_file(cut / weights))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
