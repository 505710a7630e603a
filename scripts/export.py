"""Writes a trained model as a file that runs without transformers.

python scripts/export.py --model DIR_OR_ID --format onnx --output model.onnx
"""

import argparse
import sys
from pathlib import Path

from aucseg_hf.backbones import load_image_processor, load_trained_model
from aucseg_hf.cli import check_writable, run
from aucseg_hf.export import FORMATS, export_model


def main(arguments: list[str]) -> None:
    """Exports, compares with the model, and prints the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="trained checkpoint: a folder or a hub id")
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    parser.add_argument("--output", type=Path, help="default: model.onnx or model.pt2")
    options = parser.parse_args(arguments)

    suffix = {"onnx": "onnx", "torch_export": "pt2"}[options.format]
    output = options.output or Path(f"model.{suffix}")
    model = load_trained_model(options.model)
    check_writable(output.parent)
    processor = load_image_processor(options.model)
    difference = export_model(model, processor, output, options.format)
    print(f"wrote {output}: logits differ from the model's by at most {difference:.2g}")


if __name__ == "__main__":
    sys.exit(run(main))
