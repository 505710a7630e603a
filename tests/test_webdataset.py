import shutil
import tarfile

import numpy as np
import PIL.Image
import pytest
from test_streaming import write_tars

from aucseg_hf import InputError, load_benchmark


@pytest.mark.parametrize("streaming", [False, True])
def test_tar_files(pairs, tmp_path, streaming):
    folder = write_tars(pairs, tmp_path / "tar")
    benchmark = load_benchmark(folder, streaming=streaming)
    assert benchmark.info.class_names == ("sky", "road", "car", "sign")
    records = list(benchmark["train"])
    assert (len(records), len(list(benchmark["val"]))) == (6, 3)
    for name, record in zip(range(6), records, strict=True):
        for part, suffix in (("image", "jpg"), ("label", "png")):
            file = pairs / f"train/{part}s/{name:03}.{suffix}"
            np.testing.assert_array_equal(record[part], np.asarray(PIL.Image.open(file)))


def test_tar_files_of_other_names(pairs, tmp_path):
    label = pairs / "train/labels/000.png"
    shutil.copy(pairs / "id2label.json", tmp_path)

    def write(*names):
        with tarfile.open(tmp_path / "train.tar", "w") as tar:
            for name in names:
                tar.add(label, name)
        return load_benchmark(tmp_path, streaming=True)

    (record,) = write("a.image.png", "a.label.png")["train"]
    assert record["image"].size == record["label"].size == (48, 40)
    with pytest.raises(InputError, match=r"got suffixes \['mask\.png'\]"):
        write("a.mask.png")
    (tmp_path / "train.tar").write_bytes(b"no tar file")
    with pytest.raises(InputError, match="tar files"):
        load_benchmark(tmp_path, streaming=True)
