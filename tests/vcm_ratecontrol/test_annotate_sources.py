"""Finding, hashing and reading pictures: on disk and wherever fsspec reaches."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from codec_wrappers.errors import InputError
from vcm_ratecontrol.annotate.sources import (
    CLIP_SUFFIXES,
    PICTURE_SUFFIXES,
    content_hash,
    find_sources,
    local_copy,
    read_picture,
    short_name,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.JPEG", "deep/b.png", "deep/er/c.jpg", "d.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(found: list[str]) -> list[str]:
    return [short_name(source) for source in found]


def test_folders_are_searched_to_the_bottom(folder: Path) -> None:
    assert names(find_sources([str(folder)], PICTURE_SUFFIXES)) == ["a.JPEG", "b.png", "c.jpg"]
    assert names(find_sources([str(folder)], CLIP_SUFFIXES)) == ["d.mp4"]


def test_a_file_that_is_named_is_taken_whatever_its_name_and_once(folder: Path) -> None:
    given = [str(folder / "notes.txt"), str(folder), str(folder / "a.JPEG")]
    assert names(find_sources(given, PICTURE_SUFFIXES)) == ["a.JPEG", "b.png", "c.jpg", "notes.txt"]


@pytest.mark.parametrize("name", ["nothing.jpg", "nowhere/*.jpg"])
def test_what_is_not_there_is_an_error(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        find_sources([str(folder / name)], PICTURE_SUFFIXES)


def test_remote_pictures(picture: Callable[[str], Path], tmp_path: Path) -> None:
    local = picture("coco/000000052891.jpg")
    fs = fsspec.filesystem("memory")
    fs.pipe("/test-sources/set/a.jpg", local.read_bytes())
    fs.pipe("/test-sources/set/readme.txt", b"text")
    fs.pipe("/test-sources/set/empty.png", b"")
    everything = find_sources(["memory://test-sources/set"], PICTURE_SUFFIXES)
    assert names(everything) == ["a.jpg", "empty.png"]
    assert names(find_sources(["memory://test-sources/*/*.jpg"], PICTURE_SUFFIXES)) == ["a.jpg"]
    (url, empty) = everything
    assert find_sources([url], PICTURE_SUFFIXES) == [url]
    assert content_hash(url) == content_hash(str(local)) == hashlib.sha256(local.read_bytes()).hexdigest()
    assert np.array_equal(read_picture(url, 128), read_picture(str(local), 128))
    with local_copy(url) as path:
        assert path.name == "a.jpg"
    assert not path.exists()
    with pytest.raises(InputError, match=r"memory://.*empty\.png: the file is empty"):
        read_picture(empty, 0)
    with pytest.raises(InputError, match="cannot be fetched"):
        content_hash("memory://test-sources/gone.jpg")
    with pytest.raises(InputError, match="nosuch"):
        find_sources(["nosuch://bucket/*.jpg"], PICTURE_SUFFIXES)


def test_reading_scales_down_and_turns_upright(tmp_path: Path) -> None:
    rgb = np.zeros((40, 80, 3), np.uint8)
    rgb[:, 40:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = tmp_path / "turned.png"
    Image.fromarray(rgb).save(path, exif=exif)
    read = read_picture(str(path), 0)
    assert read.shape == (80, 40, 3)
    assert (read[:40] == 0).all()
    assert (read[40:] == 255).all()
    assert read_picture(str(path), 20).shape == (20, 10, 3)


def test_a_picture_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg: no such file"):
        read_picture(str(tmp_path / "gone.jpg"), 0)
