import json

import numpy as np
import pytest
import torch
from conftest import assert_same_state, tiny_config
from PIL import Image
from safetensors.torch import load_file
from test_trainer import RandomScenes, make_trainer
from transformers import SegformerImageProcessor

from aucseg_hf import SegmentationDataset, TailMemoryBank, TrainAugmentation, load_benchmark
from aucseg_hf.bank_pictures import BankPictures


def test_pictures_every_so_many_steps_and_logs_of_the_bank(tmp_path):
    trainer = make_trainer(
        tmp_path,
        RandomScenes(8),
        config=tiny_config(id2label={0: "sky", 1: "road", 2: "car", 3: "sign"}),
        max_steps=5,
        logging_steps=5,
        per_device_train_batch_size=2,
        tail_classes=["sign"],
        bank_picture_steps=2,
    )
    trainer.train()
    names = sorted(path.name for path in (tmp_path / "bank").iterdir())
    expected = [f"step-{n:06}-{part}.png" for n in (0, 2, 4) for part in ("batch", "entries")]
    assert names == expected
    for name in names:
        Image.open(tmp_path / "bank" / name).verify()
    line = [h for h in trainer.state.log_history if "loss" in h][0]
    assert line["bank_entries"] == 5
    assert line["bank_megabytes"] == trainer.bank.nbytes / 1e6 > 0
    assert line["pasted_sign"] == trainer.bank.last_pasted.get(3, 0)


def test_what_the_pictures_show(tmp_path):
    bank = TailMemoryBank([2], memory_size=2)
    pixel_values = torch.zeros(2, 3, 32, 32)
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[0, 4:12, 4:12] = 2
    pixel_values[0, 0, 4:12, 4:12] = 1.0  # red, with mean 0 and std 1
    after = bank(pixel_values, labels)
    pictures = BankPictures(
        tmp_path, 1, ["sky", "road", "sign"], np.eye(3, dtype=np.uint8) * 255, [0.0] * 3, [1.0] * 3
    )
    shown = pictures.batch_figure((pixel_values, labels), after).axes
    # The second image lacked the sign, so it has the most pasted pixels and stands first.
    before_image, after_image, label_image = (
        axis.get_images()[0].get_array() for axis in shown[:3]
    )
    assert before_image.max() == 0
    assert (after_image[..., 0] == 255).sum() == 64
    assert (np.asarray(label_image) == [0, 0, 255]).all(-1).sum() == 64
    (entry,) = [a for a in pictures.entries_figure(bank).axes if a.get_images()]
    assert ((entry.get_images()[0].get_array() == [255, 0, 0]).all(-1)).sum() == 64


@pytest.mark.slow
def test_two_hundred_steps_with_a_resumed_bank_equal_two_hundred_straight(tmp_path):
    benchmark = load_benchmark("scenes", size=64, num_train=40, num_val=1)
    info = benchmark.info

    def run(folder, **arguments):
        resume = arguments.pop("resume", None)
        dataset = SegmentationDataset(
            benchmark["train"],
            info.label_rule,
            SegformerImageProcessor(),
            TrainAugmentation((48, 48)),
        )
        trainer = make_trainer(
            folder,
            dataset,
            config=tiny_config(info.num_labels, id2label=info.id2label),
            max_steps=200,
            per_device_train_batch_size=2,
            save_strategy="steps",
            save_steps=100,
            logging_steps=50,
            tail_classes=["traffic light", "traffic sign", "bicycle", "traffic cone"],
            memory_size=3,
            resize_ratio=0.5,
            replacement="priority_used",
            **arguments,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", resume=str(tmp_path / "whole/checkpoint-100"))
    assert_same_state(
        load_file(tmp_path / "whole/checkpoint-200/model.safetensors"),
        load_file(tmp_path / "resumed/checkpoint-200/model.safetensors"),
    )
    assert len(whole.bank) == 12
    assert_same_state(resumed.bank.state_dict(), whole.bank.state_dict())
    last = [[h for h in t.state.log_history if "loss" in h][-1] for t in (whole, resumed)]
    for line in last:
        for name in ("grad_norm", "images_per_second", "peak_memory_gb"):
            line.pop(name)
    assert json.dumps(last[0]) == json.dumps(last[1])
