"""WeightAverage: an exponential moving average of the weights beside the trained ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Follows a model's parameters: average = d * average + (1 - d) * parameter.

    d is the decay, but (1 + t) / (10 + t) where that is smaller, so that the average of step t
    does not hold on to the first weights. Buffers, such as running statistics of batch norms, are
    not averaged.

    Args:
        model: The model, not wrapped.
        decay: Between 0 and 1; 0.999 follows the last thousand steps or so.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._averages = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after an optimizer step.

        Args:
            step: Number of optimizer steps so far, from 1.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the averages into the model while the block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def reset(self) -> None:
        """Starts anew from the model's present weights."""
        torch._foreach_copy_(self._averages, self._parameters)

    @torch.no_grad()
    def apply(self) -> None:
        """Puts the averages into the model for good."""
        torch._foreach_copy_(self._parameters, self._averages)

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
