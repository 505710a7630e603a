from dataclasses import fields

import pytest
from transformers import TrainingArguments

from aucseg_hf import AUCSegTrainingArguments, InputError


def test_token_is_not_taken_into_saved_arguments(tmp_path):
    with pytest.raises(InputError, match="HF_TOKEN"):
        AUCSegTrainingArguments(str(tmp_path), hub_token="secret")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("fp16", True, "fp16 needs a GPU"),
        ("sync_batch_norm", True, "needs GPUs"),
        ("head_learning_rate_scale", 0.0, "head_learning_rate_scale > 0"),
        ("non_finite_loss", "ignore", "stop, skip"),
        ("report_to", "clearml", "cannot report to clearml: it is not installed"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path, option, value, words):
    with pytest.raises(InputError, match=words):
        AUCSegTrainingArguments(str(tmp_path), use_cpu=True, **{option: value})


def test_one_process_uses_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    assert AUCSegTrainingArguments(str(tmp_path), use_cpu=True)._n_gpu == 1


def test_every_argument_has_its_help():
    for field in fields(AUCSegTrainingArguments):
        if field.init:
            assert field.metadata.get("help"), field.name
