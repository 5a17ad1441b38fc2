"""A private folder beside an output: what is unfinished lies there, and the last step is a rename."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from codec_wrappers.errors import OutputError

# Held locked by the process that a work folder belongs to, as long as it lives.
_LOCK = "lock"
_NAMES = ".vcm-*.part"


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """A new folder on the output's file system, removed whatever happens.

    What a killed run (`kill -9`, power cut) has left beside the output is removed first.
    Raises OutputError, naming the output, when it cannot be made.
    """
    # Named before it is made, so that a signal right after the making still finds it. The name is short
    # whatever the output's: file names end at 255 bytes.
    folder = output.absolute().with_name(_NAMES.replace("*", secrets.token_hex(8)))
    _sweep(folder.parent)
    lock = None
    try:
        _make(folder, output)
        lock = _claim(folder)
        yield folder
    except OutputError as error:  # the user knows the output, not this folder
        raise OutputError(str(error).replace(str(folder), str(output.parent))) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def beside(argv: Sequence[str], folder: Path, output: Path) -> tuple[str, ...]:
    """A command line that works in a folder of such a folder, with its files beside the output instead, so that it can
    be run when that is gone: `out.FOLDER.piece.mp4` for `out.mp4`."""
    place = f"{output.with_suffix('')}.{folder.name}."
    return tuple(word.replace(f"{folder}{os.sep}", place) for word in argv)


def _make(folder: Path, output: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another name with -o") from error


def _claim(folder: Path) -> int | None:
    """Lock a folder for as long as this process lives; None where the file system has no locks."""
    lock = os.open(folder / f"{_LOCK}.new", os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    # Under its name only when it is locked: else a run that sweeps could get in between.
    (folder / f"{_LOCK}.new").rename(folder / _LOCK)
    return lock


def _sweep(parent: Path) -> None:
    """Remove work folders whose owner is dead. One that is without a lock is left: it may be in the making."""
    for folder in parent.glob(_NAMES):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_WRONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
