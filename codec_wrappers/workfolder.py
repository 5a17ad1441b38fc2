"""A private folder beside an output: what is unfinished lies there, and the last step is a rename."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codec_wrappers.errors import OutputError


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """A new folder on the output's file system, removed whatever happens.

    Raises OutputError, naming the output, when it cannot be made.
    """
    # Named before it is made, so that a signal right after the making still finds it. The name is short
    # whatever the output's: file names end at 255 bytes.
    folder = output.absolute().with_name(f".vcm-{secrets.token_hex(8)}.part")
    try:
        _make(folder, output)
        yield folder
    except OutputError as error:  # the user knows the output, not this folder
        raise OutputError(str(error).replace(str(folder), str(output.parent))) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(folder: Path, output: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another name with -o") from error
