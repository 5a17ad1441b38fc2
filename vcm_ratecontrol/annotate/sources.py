"""What is annotated: finding pictures and clips, hashing their content, reading them at the size of the labels."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError
from codec_wrappers.still import memory_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    RGB = npt.NDArray[np.uint8]

# What is taken from a folder. A file that is named itself is taken whatever its name.
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".ppm", ".jp2"})
CLIP_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".m4v", ".avi", ".webm", ".y4m", ".264", ".265", ".266", ".ts"})


def find_sources(given: Sequence[str], suffixes: frozenset[str]) -> list[str]:
    """Files of files, folders (searched to the bottom) and fsspec URLs (s3://..., patterns allowed), sorted.

    suffixes: what to take from folders and patterns. Raises InputError for a path that is not there or a folder
    without anything to take.
    """
    found: list[str] = []
    for name in given:
        files = _remote(name, suffixes) if "://" in name else _local(Path(name), suffixes)
        if not files:
            raise InputError(f"{name}: holds no file of a kind that is annotated; see docs/labels.md")
        found += files
    return sorted(set(found))


def _local(path: Path, suffixes: frozenset[str]) -> list[str]:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if not path.is_dir():
        return [str(path)]
    files = (entry for entry in path.rglob("*") if entry.suffix.lower() in suffixes and entry.is_file())
    return [str(entry) for entry in files]


def _remote(url: str, suffixes: frozenset[str]) -> list[str]:
    from fsspec.core import url_to_fs

    try:
        fs, root = url_to_fs(url)
        entries = fs.glob(root) if "*" in root else fs.find(root)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{url}: cannot be listed ({error}); check the address and the access") from error
    if entries == [root]:
        return [url]
    return [fs.unstrip_protocol(entry) for entry in entries if Path(entry).suffix.lower() in suffixes]


def content_hash(source: str) -> str:
    """SHA-256 of a file's content, hexadecimal. Raises InputError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with local_copy(source) as path, path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


@contextlib.contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """The path of a local file; of a remote one a copy that vanishes with the block. Raises InputError."""
    if "://" not in source:
        yield Path(source)
        return
    import fsspec

    with tempfile.TemporaryDirectory(prefix="vcm-source-", dir=memory_folder()) as folder:
        path = Path(folder) / short_name(source)
        try:
            with fsspec.open(source, "rb") as file:
                path.write_bytes(file.read())
        except (OSError, ValueError) as error:
            raise InputError(f"{source}: cannot be fetched ({error})") from error
        yield path


def short_name(source: str) -> str:
    """The file's name without its folders."""
    return source.rstrip("/").rsplit("/", 1)[-1]


def read_picture(source: str, max_side: int) -> RGB:
    """A still as uint8 RGB [H, W, 3], scaled down so that no side exceeds `max_side` (0: as it is).

    Raises InputError when it is missing, broken, or no still.
    """
    from vcm_ratecontrol.media.stills import load_still

    with local_copy(source) as path:
        if not path.is_file():
            raise InputError(f"{source}: no such file; was it moved?")
        if path.stat().st_size == 0:
            raise InputError(f"{source}: the file is empty")
        try:
            return scaled(load_still(path), max_side)
        except InputError as error:
            # A copy's name would tell nothing.
            raise InputError(str(error).replace(str(path), source)) from error


def scaled(rgb: RGB, max_side: int) -> RGB:
    """A picture with no side above `max_side`, by Lanczos; 0 leaves it."""
    height, width = rgb.shape[:2]
    longest = max(width, height)
    if max_side == 0 or longest <= max_side:
        return rgb
    import numpy as np
    from PIL import Image

    size = (max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest)))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
