import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from aucseg_hf.errors import InputError
from aucseg_hf.image_files import check_video_decoder, find_images, read_frames


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "b.PNG", "notes.txt", ".hidden.jpg", "sub/a.jpg", "sub/deep/c.tif"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def names(*patterns):
    return {str(name): file for file, name in find_images([str(p) for p in patterns])}


def test_folders_with_their_sub_folders(photos):
    assert names(photos) == {
        "a": photos / "a.jpg",
        "b": photos / "b.PNG",
        "sub/a": photos / "sub/a.jpg",
        "sub/deep/c": photos / "sub/deep/c.tif",
    }


def test_files_and_patterns(photos):
    assert names(photos / "sub/a.jpg", photos / "b.PNG").keys() == {"a", "b"}
    assert names(photos / "**/a.jpg").keys() == {"a", "sub/a"}
    assert names(photos / "*.jpg", photos / "a.jpg") == {"a": photos / "a.jpg"}
    (photos / "extract.txt").touch()
    assert names(photos / "extract.txt").keys() == {"extract"}  # a file that is named is tried


def test_files_that_share_a_name_keep_their_suffix(photos):
    (photos / "a.png").touch()
    assert names(photos).keys() == {"a_jpg", "a_png", "b", "sub/a", "sub/deep/c"}


def test_nothing_found_and_two_of_one_name(photos):
    with pytest.raises(InputError, match=r"no such image: .*none\.jpg"):
        names(photos / "none.jpg")
    with pytest.raises(InputError, match=r"no images in .*\*\.bmp"):
        names(photos / "*.bmp")
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images in .*empty"):
        names(photos / "a.jpg", photos / "empty")
    with pytest.raises(InputError, match=r"photos/a\.jpg and .*sub/a\.jpg: predict them one"):
        names(photos / "a.jpg", photos / "sub/a.jpg")


def test_videos_need_a_decoder(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"clip\.mp4 needs PyAV: pip install av"):
        check_video_decoder(Path("clip.mp4"))


def test_frames_of_a_video(tmp_path):
    av = pytest.importorskip("av")
    levels = (30, 120, 220)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in levels:
            frame = PIL.Image.new("RGB", (64, 48), (level,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    frames = list(read_frames(tmp_path / "clip.mp4"))
    assert [frame.size for frame in frames] == [(64, 48)] * 3
    np.testing.assert_allclose([np.asarray(frame).mean() for frame in frames], levels, atol=6)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"cannot read .*broken\.mp4"):
        next(read_frames(tmp_path / "broken.mp4"))
