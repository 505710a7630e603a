"""Writes label maps and coloured overlays of images at their native size.

python scripts/predict.py IMAGE... --model DIR_OR_ID --output_dir predictions
"""

import argparse
import sys
from pathlib import Path

import PIL.Image
import PIL.ImageOps
import torch
from tqdm.auto import tqdm

from aucseg_hf import predict
from aucseg_hf.backbones import load_image_processor, load_trained_model
from aucseg_hf.cli import run, whole_file
from aucseg_hf.data.folder import IMAGE_SUFFIXES
from aucseg_hf.errors import InputError
from aucseg_hf.plotting import color_map, overlay


def main(arguments: list[str]) -> None:
    """Predicts every image; `<name>_labels.png` holds class ids, `<name>_overlay.png` colours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files or folders")
    parser.add_argument("--model", required=True, help="trained checkpoint: a folder or a hub id")
    parser.add_argument("--output_dir", type=Path, default=Path("predictions"))
    parser.add_argument("--window", type=int, help="side of a sliding window, in pixels")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)

    paths = [path for given in options.images for path in _expand(given)]
    names = _output_names(paths)
    model = load_trained_model(options.model).to(options.device)
    processor = load_image_processor(options.model)
    settings = getattr(model.config, "aucseg", None) or {}
    colors = color_map(model.config.num_labels, settings.get("palette"))
    for path, name in zip(tqdm(paths, desc="predicting"), names, strict=True):
        image = _open(path)
        (labels,) = predict(model, processor, image, window=options.window, flip=options.flip)
        with whole_file(options.output_dir / f"{name}_labels.png") as file:
            PIL.Image.fromarray(labels).save(file)
        with whole_file(options.output_dir / f"{name}_overlay.png") as file:
            overlay(image, labels, colors).save(file)
    print(f"wrote {len(paths)} label maps and overlays to {options.output_dir}")


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise InputError(f"no images in {path}")
        return found
    if not path.is_file():
        raise InputError(f"no such image: {path}")
    return [path]


def _output_names(paths: list[Path]) -> list[str]:
    """File stems, with the folder's name before those that would collide."""
    stems = [path.stem for path in paths]
    names = [
        stem
        if stems.count(stem) == 1
        else "_".join([*path.parent.parts[-1:], path.name]).replace(".", "_")
        for stem, path in zip(stems, paths, strict=True)
    ]
    if len(set(names)) < len(names):
        raise InputError("two images would write the same output file: predict them apart")
    return names


def _open(path: Path) -> PIL.Image.Image:
    try:
        with PIL.Image.open(path) as image:
            return PIL.ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(run(main))
