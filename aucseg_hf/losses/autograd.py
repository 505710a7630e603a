"""Attaches a gradient that is already known to a value that is already known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def attach_gradient(value: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Returns `value` as a function of `inputs` whose derivatives are `gradients`.

    Args:
        value: scalar.
        inputs: tensors of any floating-point dtype.
        gradients: derivative of `value` with respect to each input, same shape, same dtype or a
            wider one. They are kept until the backward pass.

    Returns:
        Scalar whose backward pass multiplies the gradients by the incoming one. Differentiating
        twice raises RuntimeError.
    """
    return _KnownGradient.apply(value, len(inputs), *inputs, *gradients)


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        ctx.dtypes = [tensor.dtype for tensor in tensors[:count]]
        return value.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, incoming: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the loss cannot be differentiated twice: its gradient is computed in the forward "
                "pass; call backward() without create_graph=True"
            )
        # Scaling before the cast matters: a loss scaler lifts gradients that float16 would flush.
        gradients = [
            (gradient * incoming.to(gradient.dtype)).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, None, *gradients, *(None for _ in gradients)
