"""Models by name: a SegFormer size from scratch, or a transformers checkpoint of any type."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerImageProcessor,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as SUPPORTED_TYPES,
)

from aucseg_hf.configuration_aucseg import SEGFORMER_SIZES, AUCSegConfig, resolve_settings
from aucseg_hf.errors import InputError
from aucseg_hf.modeling_aucseg import AUCSegForSemanticSegmentation


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
    if config.model_type not in SUPPORTED_TYPES:
        raise InputError(
            f"cannot train {config.model_type} from {name_or_path}: "
            f"expected one of {sorted(SUPPORTED_TYPES)}"
        )
    if _is_segmentation_model(config) and config.num_labels != len(id2label) and not replace_head:
        raise InputError(
            f"{name_or_path} has {config.num_labels} classes but the data has {len(id2label)}: "
            "pass --replace_head to start its classifier anew"
        )
    settings = {**(getattr(config, "aucseg", None) or {}), "palette": palette}
    if config.num_labels != len(id2label):
        settings.pop("tail_classes", None)  # ids of other classes
    if config.model_type == "segformer":
        config = AUCSegConfig.from_pretrained(name_or_path)
    config.id2label, config.label2id = id2label, label2id
    config.aucseg = resolve_settings(settings, len(id2label))
    model = _model_class(config).from_pretrained(
        name_or_path, config=config, ignore_mismatched_sizes=True
    )
    _repair_batch_norm(model)
    return model


def load_trained_model(name_or_path: str) -> PreTrainedModel:
    """Loads a segmentation checkpoint for evaluation or prediction, with the classes it has.

    Raises:
        InputError: If nothing can be loaded from there or it is not a segmentation checkpoint.
    """
    config = load_config(name_or_path)
    if not _is_segmentation_model(config):
        raise InputError(
            f"expected a semantic segmentation checkpoint in {name_or_path}, "
            f"got {config.architectures}"
        )
    return _model_class(config).from_pretrained(name_or_path).eval()


def load_config(name_or_path: str) -> AutoConfig:
    """Reads a checkpoint's configuration.

    Raises:
        InputError: If there is none.
    """
    try:
        return AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        where = "the folder" if Path(name_or_path).is_dir() else "a folder, or on the Hub,"
        raise InputError(
            f"cannot load a model from {name_or_path}: expected {where} to hold a transformers "
            f"checkpoint, or one of the sizes {list(SEGFORMER_SIZES)}"
        ) from error


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
    for switch in ("do_resize", "do_center_crop", "do_reduce_labels"):
        if getattr(processor, switch, None):
            setattr(processor, switch, False)
    return processor


def ignore_index_of(config: PreTrainedConfig) -> int:
    """The label that a model's configuration ignores; UPerNet has its own name for it."""
    for name in ("semantic_loss_ignore_index", "loss_ignore_index"):
        if hasattr(config, name):
            return getattr(config, name)
    return 255


def _is_segmentation_model(config: AutoConfig) -> bool:
    return any(name.endswith("ForSemanticSegmentation") for name in config.architectures or ())


def _model_class(config: AutoConfig) -> type:
    native = config.model_type == "segformer"
    return AUCSegForSemanticSegmentation if native else AutoModelForSemanticSegmentation


def _repair_batch_norm(model: nn.Module) -> None:
    """Gives batch norms a usable memory of their running statistics.

    transformers passes TensorFlow's decay 0.997 as torch's momentum for MobileNetV2, so that
    running statistics would follow almost only the last batch.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum and module.momentum > 0.5:
            module.momentum = 0.01
