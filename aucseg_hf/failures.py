"""What stops a training run, said in one sentence."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from aucseg_hf.errors import InputError

_MOST_NAMES = 8


class NonFiniteLoss(InputError):
    """Raised when loss or gradient of a training step are NaN or infinite."""


def culprit(
    pixel_values: torch.Tensor,
    logits: torch.Tensor,
    terms: Mapping[str, torch.Tensor],
    model: nn.Module,
) -> str:
    """Finds where a loss stopped being finite: the first in the order data, weights, logits, terms.

    Args:
        pixel_values: [B, 3, H, W].
        logits: [B, K, h, w].
        terms: Scalars by name.
        model: Its parameters are looked through.

    Returns:
        A few words.
    """
    if not pixel_values.isfinite().all():
        return "the images hold values that are not finite"
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name} are not finite"
    if not logits.isfinite().all():
        return "the model's logits are not finite"
    wrong = [name for name, value in terms.items() if not value.isfinite()]
    if not wrong:
        return "the sum of the loss's terms is too large"
    return f"{' and '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not finite"


def non_finite_sentence(step: int, what: str, names: Sequence[str], num_images: int) -> str:
    """The message of `NonFiniteLoss`.

    Args:
        step: Number of the optimizer step, from 1.
        what: Of `culprit`.
        names: Names of the batch's images, if known.
        num_images: Size of the batch.
    """
    shown = ", ".join(names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    batch = f"{shown}{more}" if names else f"{num_images} images without names"
    return (
        f"loss is not finite at step {step}: {what}; batch: {batch}; look at these images, lower "
        "--learning_rate, or pass --non_finite_loss skip to leave such batches out"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in main memory, or no batch size was small enough.

    Args:
        error: What was raised.
    """
    signs = ("out of memory", "can't allocate memory", "No executable batch size")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def out_of_memory_sentence(batch_size: int, size: tuple[int, int] | None) -> str:
    """Says which setting to lower.

    Args:
        batch_size: Images of a forward pass.
        size: (height, width) of them, if known.
    """
    images = f"{batch_size} images" + (f" of {size[1]}x{size[0]}" if size else "")
    return (
        f"out of memory with {images} a forward pass: lower --per_device_train_batch_size (and "
        "raise --gradient_accumulation_steps by as much) or the crop size, or pass "
        "--auto_find_batch_size True, --gradient_checkpointing True or --bf16 True"
    )
