"""Exact AUC under gradient accumulation: one global loss, micro-batch by micro-batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from aucseg_hf.losses import SegmentationLoss, SegmentationLossOutput


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch after the first pass, ready for its forward and backward pass.

    Attributes:
        pixel_values: [B, 3, H, W] as the first pass saw them, pasted objects included.
        gradient: Of the loss of all micro-batches with respect to this one's logits, [B, K, h, w].
        terms: Loss of all micro-batches, detached.
        random_state: Of the CPU and, where there is one, the accelerator, before the forward pass.
    """

    pixel_values: torch.Tensor
    gradient: torch.Tensor
    terms: SegmentationLossOutput
    random_state: tuple[torch.Tensor, torch.Tensor | None]

    def forward(self, model: nn.Module, num_micro_batches: int) -> tuple[torch.Tensor, object]:
        """Runs the model again, with the dropout of the first pass.

        Args:
            model: The model, in training mode.
            num_micro_batches: By which the caller will divide the loss.

        Returns:
            A scalar with the value of the whole loss, whose gradient is `num_micro_batches` times
            this micro-batch's share, and the model's output.
        """
        _set_random_state(self.random_state, self.pixel_values.device)
        outputs = model(pixel_values=self.pixel_values)
        share = (outputs.logits.float() * self.gradient.float()).sum() * num_micro_batches
        return self.terms.loss + (share - share.detach()), outputs


def first_pass(
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
        model: The model, in training mode.
        loss: Called once with the lists of all logits and labels.
        batches: (pixel_values, labels) of every micro-batch.
        autocast: Makes the context in which the model runs.

    Returns:
        The micro-batches, in order.
    """
    device = batches[0][0].device
    logits, states = [], []
    with torch.no_grad(), _kept_buffers(model):
        for pixel_values, _ in batches:
            states.append(_random_state(device))
            with autocast():
                logits.append(model(pixel_values=pixel_values).logits)
    leaves = [scores.detach().requires_grad_() for scores in logits]
    terms = loss(leaves, [labels for _, labels in batches])
    gradients = torch.autograd.grad(terms.loss, leaves)
    detached = SegmentationLossOutput(*(term.detach() for term in terms))
    return [
        MicroBatch(pixel_values, gradient, detached, state)
        for (pixel_values, _), gradient, state in zip(batches, gradients, states, strict=True)
    ]


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
