"""Where images come from on the command line: files, folders, patterns and videos."""

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import PIL.Image

from aucseg_hf.data.folder import IMAGE_SUFFIXES
from aucseg_hf.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


def find_images(patterns: Sequence[str]) -> list[tuple[Path, Path]]:
    """Finds images and videos, and names what is made from them.

    Args:
        patterns: Files, folders, which are searched with all their sub-folders, or glob patterns,
            in which `**` stands for any sub-folders.

    Returns:
        (file, name) pairs. Names are paths without a suffix, relative to the folder given or to
        the fixed beginning of the pattern. Files that would share a name keep their suffix in it:
        `a.jpg` and `a.png` become `a_jpg` and `a_png`.

    Raises:
        InputError: If a pattern finds nothing, or two files still have one name.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        files = _expand(pattern)
        if not files:
            raise InputError(f"no images in {pattern}")
        for file, name in files:
            found.setdefault(file, name)
    times = Counter(name.with_suffix("") for name in found.values())
    pairs = [
        (file, short if times[short] == 1 else short.with_name(name.name.replace(".", "_")))
        for file, name in found.items()
        for short in [name.with_suffix("")]
    ]
    first: dict[Path, Path] = {}
    for file, name in pairs:
        if first.setdefault(name, file) != file:
            raise InputError(
                f"expected files with names of their own, got {first[name]} and {file}: "
                "predict them one after the other, or the folder above both"
            )
    return pairs


def _expand(pattern: str) -> list[tuple[Path, Path]]:
    path = Path(pattern)
    if path.is_file():
        return [(path, Path(path.name))]
    if path.is_dir():
        files = (file for file in sorted(path.rglob("*")) if not file.name.startswith("."))
        return [(file, file.relative_to(path)) for file in files if _is_readable(file)]
    if glob.has_magic(pattern):
        files = map(Path, sorted(glob.glob(pattern, recursive=True)))
        fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        return [(file, file.relative_to(fixed)) for file in files if _is_readable(file)]
    raise InputError(f"no such image: {pattern}")


def _is_readable(file: Path) -> bool:
    return file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and file.is_file()


def check_video_decoder(file: Path) -> None:
    """Looks for the package that decodes videos.

    Raises:
        InputError: If it is not installed.
    """
    if find_spec("av") is None:
        raise InputError(f"reading the video {file} needs PyAV: pip install av")


def read_frames(file: Path) -> Iterator[PIL.Image.Image]:
    """Gives the frames of a video as RGB images, one by one.

    Raises:
        InputError: If PyAV is not installed or the video cannot be read.
    """
    check_video_decoder(file)
    import av

    try:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                yield frame.to_image()
    except (av.FFmpegError, OSError, IndexError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
