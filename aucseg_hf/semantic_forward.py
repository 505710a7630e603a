"""SemanticForward: logits, auxiliary logits and own loss of any transformers segmentation model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput, SemanticSegmenterOutput

from aucseg_hf.backbones import MASK_TYPES, check_model_type, ignore_index_of
from aucseg_hf.errors import InputError
from aucseg_hf.image_sizes import ImageSizes, any_size_logits, check_image_size
from aucseg_hf.losses import SegmentationLoss

# Lower scores of mask classification count as this one, so that their logarithm stays finite.
_LOWEST_SCORE = 1e-6


@dataclass
class _OutputWithAuxiliary(SemanticSegmenterOutput):
    auxiliary_head_logits: Tensor | None = None


class SemanticOutput(NamedTuple):
    """What `SemanticForward` returns.

    Attributes:
        logits: [B, K, h, w].
        auxiliary_logits: In training, those of the auxiliary head, [B, K, h', w'], if there is one.
        model_loss: In training with labels, the own loss of a mask classification model, a scalar.
    """

    logits: Tensor
    auxiliary_logits: tuple[Tensor, ...] = ()
    model_loss: Tensor | None = None


class SemanticForward:
    """Runs any supported model and gives what its training and evaluation need.

    Models that are trained with cross-entropy never see the labels: what transformers computes from
    them is NaN for void batches and fails for most label types. Mask classification models
    (Mask2Former, MaskFormer, EoMT) do, as the masks of the classes in each image.

    Args:
        model: The model itself, not its wrapper for distributed training.

    Attributes:
        is_mask_classification: Whether the model has an own loss, in place of cross-entropy.

    Raises:
        InputError: If the model's type is not supported.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_model_type(model.config)
        self._model = model
        self.is_mask_classification = model.config.model_type in MASK_TYPES

    @property
    def auxiliary_loss_weight(self) -> float:
        """Weight of the auxiliary logits' loss in the model's configuration; 0 without a head."""
        if getattr(self._model, "auxiliary_head", None) is None:
            return 0.0
        return self._model.config.auxiliary_loss_weight

    def __call__(
        self, model: nn.Module, pixel_values: Tensor, labels: Tensor | None = None
    ) -> SemanticOutput:
        """Runs the model, in evaluation on images of any size.

        Args:
            model: The model or its wrapper.
            pixel_values: [B, 3, H, W].
            labels: Class ids [B, H, W], needed in training by mask classification models.

        Raises:
            InputError: In training, if the model cannot take images of this size, or a label is
                neither a class id nor the ignore index.
        """
        config = self._model.config
        if not model.training:
            return SemanticOutput(
                any_size_logits(
                    lambda images: self._logits(self._run(model, images)),
                    ImageSizes.from_config(config),
                    pixel_values,
                )
            )
        check_image_size(config, pixel_values.shape[-2:])
        targets = {}
        if self.is_mask_classification and labels is not None:
            targets = mask_targets(labels, config.num_labels, ignore_index_of(config))
        output = self._run(model, pixel_values, **targets)
        auxiliary = output.get("auxiliary_head_logits")
        return SemanticOutput(
            self._logits(output), () if auxiliary is None else (auxiliary,), output.get("loss")
        )

    def _run(self, model: nn.Module, pixel_values: Tensor, **targets: list[Tensor]) -> ModelOutput:
        options: dict[str, Any] = {"return_dict": True}
        if self._model.config.model_type in ("mask2former", "maskformer"):
            # Without it the auxiliary losses of MaskFormer, and Mask2Former without them, fail.
            options["output_hidden_states"] = True
        with _hooks(self._model, pixel_values):
            return model(pixel_values=pixel_values, **targets, **options)

    def _logits(self, output: ModelOutput) -> Tensor:
        if self.is_mask_classification:
            return mask_classification_logits(
                output.class_queries_logits, output.masks_queries_logits
            )
        return output.logits


def semantic_logits(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Logits of any supported model in evaluation mode, for images [B, 3, H, W] of any size.

    Returns:
        [B, K, h, w] as the model gives them; float32 [B, K, H, W] where the model cannot take the
        size and sees a filled-up image or windows.
    """
    return SemanticForward(model)(model, pixel_values).logits


def training_loss(
    criterion: SegmentationLoss,
    outputs: Sequence[SemanticOutput],
    labels: Sequence[Tensor],
    auxiliary_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one or more micro-batches, with the same loss of the auxiliary logits.

    Args:
        criterion: Called with the lists of all logits and labels.
        outputs: One output a micro-batch; their own losses are left out.
        labels: Class ids [B, H, W] of each micro-batch.
        auxiliary_weight: Weight of the auxiliary logits' loss, 0.4 as published.

    Returns:
        The loss, a scalar, and its detached, unweighted parts by the name they are logged under.
    """
    terms = criterion([output.logits for output in outputs], labels)
    loss, parts = terms.loss, {"loss_ce": terms.ce, "loss_auc": terms.auc}
    if auxiliary_weight and outputs[0].auxiliary_logits:
        auxiliary = sum(
            criterion(list(logits), labels).loss
            for logits in zip(*(output.auxiliary_logits for output in outputs), strict=True)
        )
        loss, parts["loss_aux"] = loss + auxiliary_weight * auxiliary, auxiliary.detach()
    return loss, parts


def mask_classification_logits(
    class_queries_logits: Tensor, masks_queries_logits: Tensor
) -> Tensor:
    """Logits of mask classification (Cheng et al., NeurIPS 2021, section 3.4).

    The score of class c is s_c = sum_q p_q(c) * m_q, with the class probabilities p_q of query q,
    "no object" left out, and its mask m_q in 0..1. The logit is log s_c, so that the largest score
    has the largest logit and the softmax of the logits is s / sum(s).

    Args:
        class_queries_logits: [B, Q, K + 1].
        masks_queries_logits: [B, Q, h, w].

    Returns:
        float32 [B, K, h, w], at least log(1e-6).
    """
    # Autocast would multiply in half precision, which has three digits for a sum of many queries.
    with torch.autocast(class_queries_logits.device.type, enabled=False):
        classes = class_queries_logits.float().softmax(dim=-1)[..., :-1]
        masks = masks_queries_logits.float().sigmoid()
        scores = torch.einsum("bqc,bqhw->bchw", classes, masks)
        return scores.clamp_min(_LOWEST_SCORE).log()


def mask_targets(labels: Tensor, num_labels: int, ignore_index: int) -> dict[str, list[Tensor]]:
    """The masks of the classes in each image, as mask classification models take them.

    Args:
        labels: Class ids [B, H, W], any integer dtype.
        num_labels: Number of classes.
        ignore_index: Label of void pixels, which are in no mask.

    Returns:
        `mask_labels`, B tensors float32 [N, H, W], and `class_labels`, B tensors int64 [N], with
        the N classes of each image; N is 0 for a void one.

    Raises:
        InputError: If a label is neither a class id nor the ignore index.
    """
    mask_labels, class_labels = [], []
    for image in labels.long():
        classes = image.unique()
        classes = classes[classes != ignore_index]
        if ((classes < 0) | (classes >= num_labels)).any():
            raise InputError(
                f"expected labels in 0..{num_labels - 1} or {ignore_index}, got {classes.tolist()}"
            )
        mask_labels.append((image == classes[:, None, None]).float())
        class_labels.append(classes)
    return {"mask_labels": mask_labels, "class_labels": class_labels}


@contextmanager
def _hooks(model: PreTrainedModel, pixel_values: Tensor) -> Iterator[None]:
    """Mends the model for one forward pass."""
    handles = [*_auxiliary_hooks(model), *_patch_grid_hooks(model, pixel_values)]
    pooled: list[nn.Module] = []
    if model.training and len(pixel_values) == 1:
        handles += _single_value_hooks(model, pooled)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm in pooled:
            norm.train()


def _auxiliary_hooks(model: PreTrainedModel) -> Sequence[RemovableHandle]:
    """Adds the auxiliary logits to the output, where DistributedDataParallel looks for them."""
    head = getattr(model, "auxiliary_head", None)
    if head is None or not model.training:
        return ()
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, logits: Tensor) -> None:
        kept.append(logits)

    def add(module: nn.Module, inputs: Any, output: ModelOutput) -> ModelOutput:
        return _OutputWithAuxiliary(**output, auxiliary_head_logits=kept.pop())

    return head.register_forward_hook(keep), model.register_forward_hook(add)


def _patch_grid_hooks(model: PreTrainedModel, pixel_values: Tensor) -> Sequence[RemovableHandle]:
    """Tells DPT's neck the grid of patches, which it would take to be square."""
    config = model.config
    if config.model_type != "dpt" or config.is_hybrid:
        return ()
    height, width = (side // config.patch_size for side in pixel_values.shape[-2:])

    def add(module: nn.Module, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, {**options, "patch_height": height, "patch_width": width}

    return (model.neck.register_forward_pre_hook(add, with_kwargs=True),)


def _single_value_hooks(model: nn.Module, pooled: list[nn.Module]) -> Sequence[RemovableHandle]:
    """Lets batch norms use their running statistics where a single value a channel is all there is.

    That is so after global pooling (UPerNet, BEiT, DeepLabV3 heads) in a batch of one image, which
    the last batch of an epoch can be; torch raises an error.
    """

    def freeze(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if norm.training and inputs[0].numel() == inputs[0].shape[1]:
            norm.eval()
            pooled.append(norm)

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [norm.register_forward_pre_hook(freeze) for norm in norms]
