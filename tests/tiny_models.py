"""The smallest model of every type that can be trained, with random weights."""

import torch
from transformers import (
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    BeitConfig,
    Data2VecVisionConfig,
    DetrConfig,
    DPTConfig,
    EomtConfig,
    EomtDinov3Config,
    Mask2FormerConfig,
    MaskFormerConfig,
    MobileNetV2Config,
    MobileViTConfig,
    MobileViTV2Config,
    Sapiens2Config,
    SegformerConfig,
    SwinConfig,
    Tipsv2DptConfig,
    Tipsv2VisionConfig,
    UperNetConfig,
)

from aucseg_hf.backbones import MASK_TYPES
from aucseg_hf.image_sizes import ImageSizes

NUM_LABELS = 4
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}
BEIT = {**VIT, "out_indices": [1, 2, 3, 4], "auxiliary_channels": 8, "drop_path_rate": 0.0}
EOMT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "num_upscale_blocks": 1,
    "num_blocks": 1,
    "num_queries": 6,
    "num_register_tokens": 1,
    "train_num_points": 32,
}
MASKS = {"mask_feature_size": 32, "num_labels": NUM_LABELS}


def _swin():
    return SwinConfig(
        embed_dim=8,
        depths=[1] * 4,
        num_heads=[1] * 4,
        window_size=2,
        image_size=64,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def _mobilevit(config_class, **sizes):
    return config_class(aspp_out_channels=8, output_stride=16, num_labels=NUM_LABELS, **sizes)


# Of each type: its configuration, and how the names of the encoder's parameters begin.
TYPES = {
    "segformer": (
        lambda: SegformerConfig(
            num_labels=NUM_LABELS,
            depths=[1] * 4,
            hidden_sizes=[8, 8, 16, 16],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
        ),
        "segformer.",
    ),
    "beit": (
        lambda: BeitConfig(num_labels=NUM_LABELS, use_relative_position_bias=True, **BEIT),
        "beit.",
    ),
    "data2vec-vision": (
        lambda: Data2VecVisionConfig(
            num_labels=NUM_LABELS, use_relative_position_bias=True, **BEIT
        ),
        "data2vec_vision.",
    ),
    "sapiens2": (
        lambda: Sapiens2Config(
            **VIT,
            num_labels=NUM_LABELS,
            num_key_value_attention_heads=2,
            head_config={"upsample_out_channels": [8], "conv_out_channels": [8]},
        ),
        "model.",
    ),
    "mobilenet_v2": (
        lambda: MobileNetV2Config(num_labels=NUM_LABELS, depth_multiplier=0.25, output_stride=16),
        "mobilenet_v2.",
    ),
    "mobilevit": (
        lambda: _mobilevit(
            MobileViTConfig,
            hidden_sizes=[8] * 3,
            neck_hidden_sizes=[4, 4, 4, 8, 8, 8, 16],
            num_attention_heads=2,
        ),
        "mobilevit.",
    ),
    "mobilevitv2": (
        lambda: _mobilevit(
            MobileViTV2Config,
            base_attn_unit_dims=[8] * 3,
            n_attn_blocks=[1] * 3,
            width_multiplier=0.25,
        ),
        "mobilevitv2.",
    ),
    "dpt": (
        lambda: DPTConfig(
            **VIT,
            num_labels=NUM_LABELS,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8] * 4,
            fusion_hidden_size=8,
        ),
        "dpt.",
    ),
    "upernet": (
        lambda: UperNetConfig(
            num_labels=NUM_LABELS, backbone_config=_swin(), hidden_size=8, auxiliary_channels=8
        ),
        "backbone.",
    ),
    "tipsv2_dpt": (
        lambda: Tipsv2DptConfig(
            num_labels=NUM_LABELS,
            backbone_config=Tipsv2VisionConfig(
                hidden_size=16,
                num_hidden_layers=4,
                num_attention_heads=2,
                mlp_ratio=1,
                image_size=28,
                patch_size=7,
                out_indices=[1, 2, 3, 4],
                reshape_hidden_states=False,
            ),
            neck_hidden_sizes=[8] * 4,
            fusion_hidden_size=8,
        ),
        "backbone.",
    ),
    "mask2former": (
        lambda: Mask2FormerConfig(
            **MASKS,
            backbone_config=_swin(),
            feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            encoder_layers=1,
            decoder_layers=3,
            num_attention_heads=2,
            dim_feedforward=16,
            num_queries=6,
            train_num_points=32,
        ),
        "model.pixel_level_module.encoder.",
    ),
    "maskformer": (
        lambda: MaskFormerConfig(
            **MASKS,
            backbone_config=_swin(),
            fpn_feature_size=32,
            decoder_config=DetrConfig(
                d_model=32,
                encoder_layers=1,
                decoder_layers=2,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=16,
                decoder_ffn_dim=16,
                num_queries=6,
                dropout=0.0,
            ),
        ),
        "model.pixel_level_module.encoder.",
    ),
    "eomt": (lambda: EomtConfig(num_labels=NUM_LABELS, mlp_ratio=1, **EOMT), "layers."),
    "eomt_dinov3": (
        lambda: EomtDinov3Config(num_labels=NUM_LABELS, intermediate_size=16, **EOMT),
        "layers.",
    ),
}


def native_class(config):
    universal = config.model_type in MASK_TYPES
    return AutoModelForUniversalSegmentation if universal else AutoModelForSemanticSegmentation


def tiny_config_of(model_type, **changes):
    config = TYPES[model_type][0]()
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def tiny_model_of(model_type, **changes):
    """The model transformers has, in training mode."""
    torch.manual_seed(0)
    config = tiny_config_of(model_type, **changes)
    return native_class(config).from_config(config).train()


def training_size(config):
    return ImageSizes.from_config(config).smallest((64, 64))


def random_pairs(count, size, seed=0):
    """pixel_values and labels with all classes and a void strip."""
    generator = torch.Generator().manual_seed(seed)
    pixel_values = torch.randn(count, 3, *size, generator=generator)
    labels = torch.randint(0, NUM_LABELS, (count, *size), generator=generator)
    labels[:, :4] = 255
    return pixel_values, labels
