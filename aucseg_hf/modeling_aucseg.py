"""AUCSegForSemanticSegmentation: SegFormer whose own loss is cross-entropy plus pixel AUC."""

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_outputs import SemanticSegmenterOutput

from aucseg_hf.configuration_aucseg import LOSS_KEYS, AUCSegConfig, resolve_settings
from aucseg_hf.losses import segmentation_loss

# The renaming of SegFormer's published weights is registered per class name: without this line a
# native checkpoint would lose part of its decode head here.
register_checkpoint_conversion_mapping(
    "AUCSegForSemanticSegmentation",
    get_checkpoint_conversion_mapping("SegformerForSemanticSegmentation"),
    overwrite=True,
)


class AUCSegForSemanticSegmentation(SegformerForSemanticSegmentation):
    """SegFormer for semantic segmentation, trained with cross-entropy plus the pixel AUC loss.

    Architecture, weights and logits are SegFormer's. Only the loss differs: `config.aucseg` holds
    its settings. Native SegFormer checkpoints load here, and checkpoints saved here load as native
    SegFormer.
    """

    config_class = AUCSegConfig
    # The loss is a mean over the batch, whatever `num_items_in_batch` says: Trainer has to divide
    # it.
    accepts_loss_kwargs = False

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__(config)
        config.aucseg = resolve_settings(getattr(config, "aucseg", None), config.num_labels)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SemanticSegmenterOutput | tuple:
        """Computes logits and, when labels are given, the combined loss.

        Args:
            pixel_values: Normalised images, float, [B, 3, H, W].
            labels: Class ids, any integer dtype, [B, H', W']; `config.semantic_loss_ignore_index`
                marks pixels without a class.
            return_dict: False for a plain tuple.
            **kwargs: `output_hidden_states`, `output_attentions`, as SegFormer takes them.

        Returns:
            Loss (a scalar: ce_weight * CE + auc_weight * AUC), logits [B, num_labels, H/4, W/4],
            and hidden states and attentions when asked for. A batch without a valid pixel has loss
            0.

        Raises:
            InputError: If a label is neither a class id nor the ignore index, or shapes do not fit.
        """
        outputs = super().forward(pixel_values, return_dict=True, **kwargs)
        if labels is not None:
            loss = segmentation_loss(
                outputs.logits,
                labels,
                ignore_index=self.config.semantic_loss_ignore_index,
                **{key: self.config.aucseg[key] for key in LOSS_KEYS},
            ).loss
            # Made anew because the order of the fields is that of the tuple form.
            outputs = SemanticSegmenterOutput(**{"loss": loss, **outputs})
        if return_dict is None:
            return_dict = self.config.return_dict
        return outputs if return_dict else outputs.to_tuple()
