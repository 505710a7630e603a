"""Writes label maps and coloured overlays of images at their native size.

    python scripts/predict.py photo.jpg --model DIR_OR_ID
    python scripts/predict.py photos/ "more/**/*.png" --model DIR_OR_ID --window 512 --flip

`<name>_labels.png` holds class ids, `<name>_overlay.png` the classes' colours on the image, and
`legend.png` says which colour is which class. Folders are searched with all their sub-folders,
which the output folder repeats; the frames of `clip.mp4` become `clip/000000_labels.png` and so on.
"""

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from tqdm.auto import tqdm

from aucseg_hf.backbones import load_image_processor, load_trained_model
from aucseg_hf.cli import check_device, check_writable, run, whole_file
from aucseg_hf.colors import color_map, colorize, overlay
from aucseg_hf.errors import InputError
from aucseg_hf.image_files import VIDEO_SUFFIXES, check_video_decoder, find_images, read_frames
from aucseg_hf.images import read_image
from aucseg_hf.inference import predict_each
from aucseg_hf.plotting import plot_legend

FORMATS = ("raw", "palette", "color")


def main(arguments: list[str]) -> None:
    """Predicts every image, as the module says."""
    options = _parse(arguments)
    # Large images are what windows are for; Pillow would take them for an attack.
    PIL.Image.MAX_IMAGE_PIXELS = None
    files = find_images(options.images)
    for file, _ in files:
        if _is_video(file):
            check_video_decoder(file)
    device = check_device(options.device)
    model = load_trained_model(options.model)
    processor = load_image_processor(options.model)
    num_labels = model.config.num_labels
    if options.format == "palette" and num_labels > 256:
        raise InputError(f"a palette holds 256 colours, got {num_labels} classes: use --format raw")
    settings = getattr(model.config, "aucseg", None) or {}
    colors = color_map(num_labels, settings.get("palette"))
    check_writable(options.output_dir)

    waiting: deque[tuple[Path, PIL.Image.Image]] = deque()

    def images() -> Iterator[PIL.Image.Image]:
        for name, image in _read(files):
            waiting.append((name, image))
            yield image

    predictions = predict_each(
        model.to(device),
        processor,
        images(),
        window=options.window,
        stride=options.stride,
        scales=options.scales,
        flip=options.flip,
        batch_size=options.batch_size,
        confidence=options.confidence,
    )
    has_video = any(_is_video(file) for file, _ in files)
    written = 0
    for labels, confidence in tqdm(predictions, "predicting", None if has_video else len(files)):
        name, image = waiting.popleft()
        target = options.output_dir / name
        _save(_label_picture(labels, colors, options.format), target, "labels")
        _save(overlay(image, labels, colors), target, "overlay")
        if confidence is not None:
            levels = (255 * confidence.astype(np.float32)).round().astype(np.uint8)
            _save(PIL.Image.fromarray(levels), target, "confidence")
        written += 1
    legend = plot_legend(colors, [model.config.id2label[i] for i in range(num_labels)])
    with whole_file(options.output_dir / "legend.png") as file:
        legend.savefig(file, bbox_inches="tight")
    print(f"wrote {written} label maps and overlays to {options.output_dir}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="+", help="images, videos, folders, or glob patterns in quotes")
    add("--model", required=True, help="trained checkpoint: a folder or a hub id")
    add("--output_dir", type=Path, default=Path("predictions"))
    add(
        "--format",
        choices=FORMATS,
        default="raw",
        help="label maps as grey ids, as ids that viewers show in colour, or as RGB colours",
    )
    add("--confidence", action="store_true", help="write <name>_confidence.png: 255 is certain")
    add("--window", type=int, help="side of a sliding window, in pixels; default the whole image")
    add("--stride", type=int, help="step of the window; default three quarters of it")
    add("--scales", type=float, nargs="+", default=[1.0], help="sizes to average over")
    add("--flip", action="store_true", help="average with the mirrored image")
    add("--batch_size", type=int, default=4, help="windows, or images of one size, at once")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def _read(files: list[tuple[Path, Path]]) -> Iterator[tuple[Path, PIL.Image.Image]]:
    for file, name in files:
        if _is_video(file):
            for index, frame in enumerate(read_frames(file)):
                yield name / f"{index:06}", frame
        else:
            yield name, read_image(file)


def _label_picture(labels: np.ndarray, colors: np.ndarray, file_format: str) -> PIL.Image.Image:
    if file_format == "color":
        return colorize(labels, colors)
    picture = PIL.Image.fromarray(labels)
    if file_format == "palette":
        picture = PIL.Image.fromarray(labels.astype(np.uint8))
        picture.putpalette(colors.tobytes())
    return picture


def _save(picture: PIL.Image.Image, target: Path, kind: str) -> None:
    with whole_file(target.with_name(f"{target.name}_{kind}.png")) as file:
        picture.save(file)


if __name__ == "__main__":
    sys.exit(run(main))
