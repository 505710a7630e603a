"""The trees in which benchmarks are handed out, and how their images and labels pair up."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aucseg_hf.data.folder import IMAGE_SUFFIXES, Pairs, list_images, path_inside
from aucseg_hf.errors import InputError


@dataclass(frozen=True)
class Found:
    """What a layout finds on disk.

    Attributes:
        files: Split name -> (image, label) paths.
        faults: One sentence for every image without its label.
    """

    files: dict[str, Pairs]
    faults: list[str]


class Layout(Protocol):
    """How the files of a benchmark lie on disk.

    Attributes:
        class_ids: Whether its label images hold class ids already, instead of raw ids.
    """

    class_ids: bool

    def recognises(self, root: Path) -> bool:
        """Whether the folders or lists of this layout are there."""

    def find(self, root: Path) -> Found:
        """Pairs up the files."""

    def expected(self, root: Path) -> str:
        """What has to be in the folder, for error messages."""


@dataclass(frozen=True)
class FolderLayout:
    """Images and labels in two parallel folders a split.

    Attributes:
        images: Folder of the images, with {split} for the split's name.
        labels: Folder of the labels. Labels without an image are left alone.
        splits: Split name -> its name in the paths. A test split without any label is left out:
            most benchmarks keep these labels to themselves.
        image_suffix: How names of images end; by default in any suffix of an image.
        label_suffix: How the name of the label ends that has the rest of its image's name.
        class_ids: Whether the label images hold class ids already.
    """

    images: str
    labels: str
    splits: Mapping[str, str]
    image_suffix: str | None = None
    label_suffix: str = ".png"
    class_ids: bool = False

    def recognises(self, root: Path) -> bool:
        """Whether a split has both folders."""
        return any(
            images.is_dir() and labels.is_dir()
            for images, labels in map(lambda split: self._folders(root, split), self.splits)
        )

    def find(self, root: Path) -> Found:
        """Pairs up the files of every split whose images are there."""
        found = Found({}, [])
        for split in self.splits:
            image_folder, label_folder = self._folders(root, split)
            images = list_images(image_folder, self.image_suffix) if image_folder.is_dir() else {}
            labels = list_images(label_folder, self.label_suffix) if label_folder.is_dir() else {}
            missing = images.keys() - labels.keys()
            if not images or (split == "test" and len(missing) == len(images)):
                continue
            found.files[split] = [(images[k], labels[k]) for k in images if k not in missing]
            found.faults.extend(
                f"image without label: {images[key]} has no {label_folder / key}{self.label_suffix}"
                for key in sorted(missing)
            )
        return found

    def expected(self, root: Path) -> str:
        """The two folders, and how their files are called."""
        splits = "{" + ",".join(self.splits.values()) + "}"
        images, labels = (folder.format(split=splits) for folder in (self.images, self.labels))
        return (
            f"{root / images}/*{self.image_suffix or '.jpg'} and "
            f"{root / labels}/*{self.label_suffix}"
        )

    def _folders(self, root: Path, split: str) -> tuple[Path, Path]:
        name = self.splits[split]
        return root / self.images.format(split=name), root / self.labels.format(split=name)


@dataclass(frozen=True)
class ListLayout:
    """Lists train.txt, val.txt and test.txt with an image and its label on every line.

    Attributes:
        prefix: What paths in the lists begin with on their author's machine; it is left out.
        class_ids: Whether the label images hold class ids already.
    """

    prefix: str
    class_ids: bool = False

    def recognises(self, root: Path) -> bool:
        """Whether there is a list that begins with a pair."""
        return any(self._is_list(path) for path in self._lists(root).values())

    def find(self, root: Path) -> Found:
        """Reads the lists.

        Raises:
            InputError: If a line is no pair or names a file outside the folder or a missing one.
        """
        found = Found({}, [])
        for split, path in self._lists(root).items():
            pairs: Pairs = []
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if not line.strip():
                    continue
                source = f"{path} line {number}"
                if len(line.split()) != 2:
                    raise InputError(f"expected an image and a label in {source}, got {line!r}")
                image, label = (
                    path_inside(root, name.removeprefix(self.prefix), source)
                    for name in line.split()
                )
                pairs.append((image, label))
            found.files[split] = pairs
        return found

    def expected(self, root: Path) -> str:
        """The lists."""
        return f"{root}/{{train,val,test}}.txt with an image and its label on every line"

    def _lists(self, root: Path) -> dict[str, Path]:
        paths = {split: root / f"{split}.txt" for split in ("train", "val", "test")}
        return {split: path for split, path in paths.items() if path.is_file()}

    def _is_list(self, path: Path) -> bool:
        with path.open(encoding="utf-8", errors="replace") as file:
            names = file.readline().split()
        return len(names) == 2 and all(name.lower().endswith(IMAGE_SUFFIXES) for name in names)


def find_files(layouts: tuple[Layout, ...], root: Path) -> tuple[Layout, dict[str, Pairs]]:
    """Finds the files of a benchmark in the first of its layouts that is complete.

    Raises:
        InputError: If no layout is there, or an image has no label in any.
    """
    if not root.is_dir():
        raise InputError(f"no such folder: {root}")
    there = [layout for layout in layouts if layout.recognises(root)]
    if not there:
        expected = ", or ".join(layout.expected(root) for layout in layouts)
        raise InputError(
            f"wrong layout: expected {expected}; found {sorted(p.name for p in root.iterdir())[:8]}"
        )
    found = [(layout, layout.find(root)) for layout in there]
    # min takes the first of equals, so that of two complete layouts the preferred one is read.
    layout, best = min(found, key=lambda pair: len(pair[1].faults))
    if best.faults:
        more = f" (and {len(best.faults) - 1} more)" if len(best.faults) > 1 else ""
        raise InputError(best.faults[0] + more)
    if not any(best.files.values()):
        raise InputError(f"empty benchmark: no images where expected, {layout.expected(root)}")
    return layout, best.files
