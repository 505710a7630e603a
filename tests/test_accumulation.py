import copy

import pytest
import torch
from conftest import assert_same_state, tiny_config
from test_trainer import RandomScenes, gradients_after_one_step, make_trainer

from aucseg_hf import InputError, segmentation_loss


def without_batch_norm(model):
    """Batch norm sees a micro-batch alone by definition; and larger logits let AUC terms differ."""
    model.decode_head.batch_norm = torch.nn.Identity()
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=3.0)


@pytest.mark.parametrize("surrogate", ["square", "exp", "hinge"])
def test_four_micro_batches_of_two_equal_a_batch_of_eight(tmp_path, surrogate):
    def run(**arguments):
        trainer = make_trainer(
            tmp_path,
            RandomScenes(8),
            max_steps=1,
            logging_steps=1,
            max_grad_norm=0,
            surrogate=surrogate,
            **arguments,
        )
        torch.manual_seed(1)
        without_batch_norm(trainer.model)
        gradients = gradients_after_one_step(trainer)
        return [h for h in trainer.state.log_history if "loss" in h][0], gradients

    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    whole_log, whole = run(per_device_train_batch_size=8)
    exact_log, exact = run(auc_accumulation="exact", **small)
    local_log, local = run(**small)
    for name in ("loss", "loss_ce", "loss_auc"):
        assert exact_log[name] == pytest.approx(whole_log[name], rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(exact[name], gradient, rtol=1e-3, atol=1e-5)
    # What the option is for: the mean over micro-batches is another loss.
    assert abs(local_log["loss_auc"] - whole_log["loss_auc"]) > 1e-3
    difference = max((local[n] - whole[n]).norm() / whole[n].norm() for n in whole)
    assert difference > 0.01


def test_dropout_and_bank_are_replayed_and_batch_norm_counts_once(tmp_path):
    """Equals one backward pass through the union of the micro-batches' graphs."""
    config = tiny_config(classifier_dropout_prob=0.5, hidden_dropout_prob=0.2, drop_path_rate=0.2)
    trainer = make_trainer(
        tmp_path,
        RandomScenes(8),
        config=config,
        max_steps=1,
        logging_steps=1,
        max_grad_norm=0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        auc_accumulation="exact",
        tail_classes=["3"],
    )
    reference = copy.deepcopy(trainer.model).train()
    bank = copy.deepcopy(trainer.bank)
    batches, states = [], []
    original = trainer.get_batch_samples

    def spy(*args, **kwargs):
        samples, items = original(*args, **kwargs)
        batches.extend(samples)
        states.append(torch.get_rng_state())
        return samples, items

    trainer.get_batch_samples = spy
    gradients = gradients_after_one_step(trainer)
    after = torch.get_rng_state()

    torch.set_rng_state(states[0])
    pasted = [bank(batch["pixel_values"], batch["labels"]) for batch in batches]
    logits = [reference(pixel_values).logits for pixel_values, _ in pasted]
    output = segmentation_loss(torch.cat(logits), torch.cat([labels for _, labels in pasted]))
    output.loss.backward()
    assert torch.equal(after, torch.get_rng_state())
    log = [h for h in trainer.state.log_history if "loss" in h][0]
    assert log["loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)
    trained = dict(trainer.model.named_buffers())
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(trained[name], buffer)
    assert_same_state(trainer.bank.state_dict(), bank.state_dict())


def test_unknown_mode(tmp_path):
    with pytest.raises(InputError, match="global"):
        make_trainer(tmp_path, auc_accumulation="global")
