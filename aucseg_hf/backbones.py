"""Models by name: a SegFormer size from scratch, or a transformers checkpoint of any type."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    Sapiens2HeadConfig,
    SegformerImageProcessor,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as SEMANTIC_TYPES,
)

from aucseg_hf.configuration_aucseg import SEGFORMER_SIZES, AUCSegConfig, resolve_settings
from aucseg_hf.errors import InputError
from aucseg_hf.image_sizes import ImageSizes
from aucseg_hf.modeling_aucseg import AUCSegForSemanticSegmentation

# Models of mask classification, which have an own loss.
MASK_TYPES = ("mask2former", "maskformer", "eomt", "eomt_dinov3")
_HEADS = ("ForSemanticSegmentation", "ForUniversalSegmentation", "ForInstanceSegmentation")
# Types of which every parameter reaches the logits.
_TYPES_WITHOUT_SPARE_PARAMETERS = (
    "segformer",
    "sapiens2",
    "mobilevit",
    "mobilevitv2",
    "eomt",
    "eomt_dinov3",
)


def load_model(
    name_or_path: str,
    id2label: Mapping[int, str],
    palette: Sequence[Sequence[int]] | None = None,
    replace_head: bool = False,
) -> PreTrainedModel:
    """Builds or loads a segmentation model for the given classes.

    Args:
        name_or_path: "b0" to "b5" for a SegFormer with random weights, a folder, or a hub id. Of a
            checkpoint that is not a segmentation model (an ImageNet encoder) only the encoder is
            taken.
        id2label: Class names by id.
        palette: One display colour a class, kept in the configuration under `aucseg`.
        replace_head: Accept a segmentation checkpoint with another number of classes, and start its
            classifier anew.

    Returns:
        `AUCSegForSemanticSegmentation` for SegFormer, else the class transformers has for the type.

    Raises:
        InputError: If nothing can be loaded from there, the type cannot be trained, or the number
            of classes disagrees with a segmentation checkpoint.
    """
    id2label = dict(id2label)
    label2id = {name: i for i, name in id2label.items()}
    if name_or_path in SEGFORMER_SIZES:
        settings = {"palette": palette}
        return AUCSegForSemanticSegmentation(
            AUCSegConfig.from_size(
                name_or_path, id2label=id2label, label2id=label2id, aucseg=settings
            )
        )
    config = load_config(name_or_path)
    check_model_type(config)
    if _is_segmentation_model(config) and config.num_labels != len(id2label) and not replace_head:
        raise InputError(
            f"{name_or_path} has {config.num_labels} classes but the data has {len(id2label)}: "
            "pass --replace_head to start its classifier anew"
        )
    settings = {**(getattr(config, "aucseg", None) or {}), "palette": palette}
    if config.num_labels != len(id2label):
        settings.pop("tail_classes", None)  # ids of other classes
    if not _is_segmentation_model(config):
        _complete_head(config)
    config.id2label, config.label2id = id2label, label2id
    config.aucseg = resolve_settings(settings, len(id2label))
    # A checkpoint in half precision would be trained in half precision, its optimizer included.
    model = _load_weights(
        name_or_path, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    _repair_batch_norm(model)
    return model


def load_trained_model(name_or_path: str) -> PreTrainedModel:
    """Loads a segmentation checkpoint for evaluation or prediction, with the classes it has.

    Raises:
        InputError: If nothing can be loaded from there or it is not a segmentation checkpoint.
    """
    config = load_config(name_or_path)
    check_model_type(config)
    if not _is_segmentation_model(config):
        raise InputError(
            f"expected a semantic segmentation checkpoint in {name_or_path}, "
            f"got {config.architectures}"
        )
    return _load_weights(name_or_path, config=config).eval()


def load_config(name_or_path: str) -> PreTrainedConfig:
    """Reads a checkpoint's configuration, SegFormer's with the settings of the method.

    Raises:
        InputError: If there is none.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        where = "the folder" if Path(name_or_path).is_dir() else "a folder, or on the Hub,"
        raise InputError(
            f"cannot load a model from {name_or_path}: expected {where} to hold a transformers "
            f"checkpoint, or one of the sizes {list(SEGFORMER_SIZES)}"
        ) from error
    if config.model_type == "segformer":
        return AUCSegConfig.from_pretrained(name_or_path)
    return config


def load_image_processor(name_or_path: str) -> BaseImageProcessor:
    """Loads the image processor of a checkpoint, or SegFormer's default for a size.

    Resizing and cropping are switched off: training crops, evaluation and prediction see native
    pixels, and a saved processor keeps it so for `pipeline("image-segmentation")`.
    """
    if name_or_path in SEGFORMER_SIZES:
        return SegformerImageProcessor(do_resize=False)
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path)
    except OSError:
        return SegformerImageProcessor(do_resize=False)
    for switch in ("do_resize", "do_center_crop", "do_reduce_labels", "do_pad"):
        if getattr(processor, switch, None):
            setattr(processor, switch, False)
    return processor


def image_sizes_of(name_or_path: str) -> ImageSizes:
    """The image sizes that a model, by name, can be trained on.

    Raises:
        InputError: If there is no such model.
    """
    if name_or_path in SEGFORMER_SIZES:
        return ImageSizes()
    return ImageSizes.from_config(load_config(name_or_path))


def check_model_type(config: PreTrainedConfig) -> None:
    """Checks that models of this type can be trained.

    Raises:
        InputError: If they cannot.
    """
    if config.model_type in SEMANTIC_TYPES or config.model_type in MASK_TYPES:
        return
    reason = " (it needs text inputs)" if config.model_type == "oneformer" else ""
    raise InputError(
        f"cannot train or run a model of type {config.model_type}{reason}: "
        f"expected one of {', '.join(sorted([*SEMANTIC_TYPES, *MASK_TYPES]))}"
    )


def has_spare_parameters(config: PreTrainedConfig) -> bool:
    """Whether some parameters do not reach the logits, like BEiT's last blocks.

    DistributedDataParallel then needs `find_unused_parameters`.
    """
    return config.model_type not in _TYPES_WITHOUT_SPARE_PARAMETERS


def ignore_index_of(config: PreTrainedConfig) -> int:
    """The label that a model's configuration ignores, whatever its type calls it."""
    for name in ("semantic_loss_ignore_index", "loss_ignore_index", "ignore_value"):
        if hasattr(config, name):
            return getattr(config, name)
    return 255


def _is_segmentation_model(config: PreTrainedConfig) -> bool:
    return any(name.endswith(_HEADS) for name in config.architectures or ())


def _complete_head(config: PreTrainedConfig) -> None:
    """Sets what the configuration of an encoder leaves open and its segmentation head needs."""
    if config.model_type == "beit" and len(config.out_indices) != 4:
        # The published blocks of the base size, of 12.
        config.out_indices = [config.num_hidden_layers * i // 12 for i in (3, 5, 7, 11)]
    if config.model_type == "sapiens2":
        # As in the published models, which have stride 4.
        config.head_config = Sapiens2HeadConfig(
            upsample_out_channels=[768, 768], conv_out_channels=[768, 768]
        )


def _load_weights(name_or_path: str, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    if config.model_type == "segformer":
        model_class = AUCSegForSemanticSegmentation
    elif config.model_type in MASK_TYPES:
        model_class = AutoModelForUniversalSegmentation
    else:
        model_class = AutoModelForSemanticSegmentation
    try:
        return model_class.from_pretrained(name_or_path, config=config, **options)
    except OSError as error:
        raise InputError(f"cannot load weights from {name_or_path}: {error}") from error


def _repair_batch_norm(model: nn.Module) -> None:
    """Gives batch norms a usable memory of their running statistics.

    transformers passes TensorFlow's decay 0.997 as torch's momentum for MobileNetV2, so that
    running statistics would follow almost only the last batch.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum and module.momentum > 0.5:
            module.momentum = 0.01
