"""Exact AUC under gradient accumulation: one global loss, micro-batch by micro-batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from aucseg_hf.losses import SegmentationLoss
from aucseg_hf.semantic_forward import SemanticForward, SemanticOutput, training_loss


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch after the first pass, ready for its forward and backward pass.

    Attributes:
        pixel_values: [B, 3, H, W] as the first pass saw them, pasted objects included.
        labels: [B, H, W], likewise.
        gradients: Of the loss of all micro-batches with respect to this one's logits, [B, K, h, w],
            and its auxiliary logits.
        loss: Loss of all micro-batches, detached, without own losses of models.
        parts: Its parts, by name.
        random_state: Of the CPU and, where there is one, the accelerator, before the forward pass.
    """

    pixel_values: torch.Tensor
    labels: torch.Tensor
    gradients: tuple[torch.Tensor, ...]
    loss: torch.Tensor
    parts: dict[str, torch.Tensor]
    random_state: tuple[torch.Tensor, torch.Tensor | None]

    def forward(
        self, forward: SemanticForward, model: nn.Module, num_micro_batches: int
    ) -> tuple[torch.Tensor, SemanticOutput]:
        """Runs the model again, with the dropout of the first pass.

        Args:
            forward: Runs the model.
            model: The model, in training mode, or its wrapper.
            num_micro_batches: By which the caller will divide the loss.

        Returns:
            A scalar with the value of the whole loss, whose gradient is `num_micro_batches` times
            this micro-batch's share, and the model's output.
        """
        _set_random_state(self.random_state, self.pixel_values.device)
        output = forward(model, self.pixel_values, self.labels)
        shares = [
            (logits.float() * gradient.float()).sum()
            for logits, gradient in zip(_all_logits(output), self.gradients, strict=True)
        ]
        share = sum(shares) * num_micro_batches
        return self.loss + (share - share.detach()), output


def first_pass(
    forward: SemanticForward,
    model: nn.Module,
    loss: SegmentationLoss,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    autocast: Callable,
) -> list[MicroBatch]:
    """Finds the gradient of the loss of all micro-batches with respect to the logits of each.

    The square and exponential surrogates couple all pixels of a batch, so that the mean of the
    micro-batches' losses is not the loss of their union. Here all are run without gradient, only
    the low-resolution logits are kept, and one call of the loss sees them together. Batch-norm
    statistics are put back, as the second pass updates them.

    Args:
        forward: Runs the model.
        model: The model, in training mode, or its wrapper.
        loss: Called once with the lists of all logits and labels.
        batches: (pixel_values, labels) of every micro-batch.
        autocast: Makes the context in which the model runs.

    Returns:
        The micro-batches, in order.
    """
    device = batches[0][0].device
    outputs, states = [], []
    with torch.no_grad(), _kept_buffers(model):
        for pixel_values, _ in batches:
            states.append(_random_state(device))
            with autocast():
                outputs.append(_leaves(forward(model, pixel_values)))
    total, parts = training_loss(
        loss, outputs, [labels for _, labels in batches], forward.auxiliary_loss_weight
    )
    leaves = [logits for output in outputs for logits in _all_logits(output)]
    # Auxiliary logits of weight 0 are not in the loss.
    gradients = iter(torch.autograd.grad(total, leaves, materialize_grads=True))
    return [
        MicroBatch(
            *batch,
            tuple(next(gradients) for _ in _all_logits(output)),
            total.detach(),
            parts,
            state,
        )
        for batch, output, state in zip(batches, outputs, states, strict=True)
    ]


def _all_logits(output: SemanticOutput) -> tuple[torch.Tensor, ...]:
    return output.logits, *output.auxiliary_logits


def _leaves(output: SemanticOutput) -> SemanticOutput:
    logits, *auxiliary = (x.detach().requires_grad_() for x in _all_logits(output))
    return SemanticOutput(logits, tuple(auxiliary))


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    for buffer, value in kept:
        buffer.copy_(value)


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _set_random_state(
    state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device
) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
