"""What the readers share: files that are missing, too long or not numbers become one clear line."""

import re
from pathlib import Path

from codec_wrappers.errors import InputError

_INTEGER = re.compile(r"[+-]?\d{1,9}", re.ASCII)


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises InputError when it cannot be read or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing QP map") from error
    if not data:
        raise InputError(f"{path}: is empty; write the map again")
    return data


def read_text(path: Path) -> str:
    """The file's content as ASCII text. Raises InputError when it is something else."""
    try:
        return read_bytes(path).decode("ascii")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not text; is it another kind of map?") from error


def integers(words: list[str], path: Path, what: str) -> list[int]:
    """The words as numbers. Raises InputError that names the first one which is none."""
    for word in words:
        if not _INTEGER.fullmatch(word):
            raise InputError(f"{path}: {word[:20]!r} in {what} is not an integer")
    return [int(word) for word in words]
