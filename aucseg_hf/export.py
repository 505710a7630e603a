"""Trained models as files that run without transformers: torch.export and ONNX."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from aucseg_hf.cli import whole_file
from aucseg_hf.errors import InputError, check_choice
from aucseg_hf.semantic_forward import semantic_logits

FORMATS = ("onnx", "torch_export")
# Below this SegFormer's attention has feature maps of one row, which are traced as a special case.
SMALLEST_SIDE = 64
TOLERANCE = 1e-4


class _Logits(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return semantic_logits(self.model, pixel_values)


def export_model(
    model: PreTrainedModel, image_processor: BaseImageProcessor, path: str | Path, file_format: str
) -> float:
    """Writes a model as a graph from `pixel_values` to `logits`, and compares it with the model.

    The graph takes normalised images, float32 [B, 3, H, W] with any B, and any H and W from
    `SMALLEST_SIDE` on, and gives the model's own logits [B, K, h, w], h = H/4 and w = W/4 rounded
    up for SegFormer. Upsampling is left to the reader: bilinear, half-pixel centres. The file
    carries `id2label`, `image_mean` and `image_std` as JSON: ONNX in `metadata_props`, torch.export
    as extra files.

    Args:
        model: Segmentation model in float32 on the CPU.
        image_processor: Source of `image_mean` and `image_std`.
        path: File to write; it appears only when it is whole and right.
        file_format: One of `FORMATS`. "onnx" needs the packages of the extra `export`.

    Returns:
        The largest absolute difference from the model's logits, on an image of a size that was not
        used for tracing.

    Raises:
        InputError: If the format is unknown, packages are missing, the model cannot be traced with
            open sizes, or its logits come back changed by more than `TOLERANCE`.
    """
    check_choice("format", file_format, FORMATS)
    if file_format == "onnx":
        _check_packages()
    wrapped = _Logits(model).eval()
    metadata = {
        "id2label": json.dumps(model.config.id2label),
        "image_mean": json.dumps(image_processor.image_mean),
        "image_std": json.dumps(image_processor.image_std),
    }
    program = _trace(wrapped)
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(1, 3, 131, 97, generator=generator)
    with whole_file(path) as file, torch.inference_mode():
        if file_format == "onnx":
            _save_onnx(program, file, metadata)
            logits = _run_onnx(file, pixel_values)
        else:
            extra_files = {f"{name}.json": value for name, value in metadata.items()}
            torch.export.save(program, file, extra_files=extra_files)
            logits = torch.export.load(file).module()(pixel_values)
        difference = (logits - wrapped(pixel_values)).abs().max().item()
        if not difference <= TOLERANCE:
            raise InputError(
                f"cannot export {model.config.model_type} as {file_format}: its logits change by "
                f"{difference:.2g}, expected at most {TOLERANCE}"
            )
    return difference


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'ONNX needs the package {error.name}: pip install "aucseg-hf[export]"'
        ) from error


def _open_sizes() -> dict[str, dict[int, torch.export.Dim]]:
    dim = torch.export.Dim
    height, width = (dim(name, min=SMALLEST_SIDE) for name in ("height", "width"))
    return {"pixel_values": {0: dim("batch"), 2: height, 3: width}}


def _trace(wrapped: _Logits) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(
            wrapped, (torch.zeros(2, 3, 128, 160),), dynamic_shapes=_open_sizes()
        )
    # torch.export has no common class for what a model's code may do wrong.
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"cannot export {wrapped.model.config.model_type} with height and width left open: "
            f"{reason}"
        ) from error


def _save_onnx(
    program: torch.export.ExportedProgram, file: Path, metadata: Mapping[str, str]
) -> None:
    exported = torch.onnx.export(
        program,
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_shapes=_open_sizes(),
        dynamo=True,
        verbose=False,
    )
    exported.model.metadata_props.update(metadata)
    exported.save(file)


def _run_onnx(file: Path, pixel_values: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixel_values": pixel_values.numpy()})
    return torch.from_numpy(logits)
