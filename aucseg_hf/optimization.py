"""What the optimizer is told of the parameters, and batch norm over several GPUs."""

import torch
from torch import nn
from transformers import PreTrainedModel

_ENCODERS = ("backbone", "model.pixel_level_module.encoder", "model.pixel_level_module.backbone")
_SMALL_BATCH = 8


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to: kernels and matrices.

    Norms, biases and scales are vectors; position embeddings and position bias tables shrink no
    more than those.

    Args:
        model: The model.
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and "position" not in name and "token" not in name.rpartition(".")[2]
    ]


def encoder_of(model: PreTrainedModel) -> nn.Module | None:
    """The part of a segmentation model that comes pretrained, or None where it is not apart."""
    for path in (*_ENCODERS, model.base_model_prefix):
        module = model
        for name in path.split("."):
            module = getattr(module, name, None)
        if isinstance(module, nn.Module) and module is not model:
            return module
    return None


def scale_head_learning_rate(
    optimizer: torch.optim.Optimizer, model: PreTrainedModel, scale: float
) -> bool:
    """Splits every parameter group in encoder and head and multiplies the head's learning rate.

    Published recipes train the new head ten times faster than the pretrained encoder. A schedule
    multiplies both alike.

    Args:
        optimizer: Before its first step.
        model: The model whose parameters it has.
        scale: Learning rate of the head relative to the encoder's.

    Returns:
        Whether there is anything to tell apart.
    """
    encoder = encoder_of(model)
    if scale == 1 or encoder is None:
        return False
    in_encoder = {id(parameter) for parameter in encoder.parameters()}
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    parts: list[dict] = []
    for is_head in (False, True):
        for group in groups:
            params = [p for p in group["params"] if (id(p) not in in_encoder) == is_head]
            rate = group["lr"] * scale if is_head else group["lr"]
            parts.append({**group, "params": params, "lr": rate})
    for part in parts:
        if part["params"]:
            optimizer.add_param_group(part)
    return True


def wants_sync_batch_norm(choice: bool | None, num_gpus: int, batch_size: int) -> bool:
    """Whether batch norms share their statistics over GPUs.

    Args:
        choice: What the user said; None leaves it to the rule: several GPUs with fewer than 8
            images each.
        num_gpus: Processes that train on a GPU of their own.
        batch_size: Images a GPU.
    """
    if choice is None:
        return num_gpus > 1 and batch_size < _SMALL_BATCH
    return choice
