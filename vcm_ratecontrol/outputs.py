"""What a command writes: guards that refuse it before any work is done, and what goes with the pictures."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import OutputError
from codec_wrappers.join import Companions

if TYPE_CHECKING:
    from vcm_ratecontrol.media import Clip

#: One number in a file name, as printf writes it: '%d', '%05d'.
FRAME_NUMBER = re.compile(r"%(0\d+)?d")


def check_output(inputs: Path | Iterable[Path], output: Path, overwrite: bool) -> None:
    """Refuse an output that must not or cannot be written. Nothing is created or changed.

    inputs: the file or files that are read; overwrite: an existing file may be replaced (`-y`).
    Raises OutputError: a folder or a device, the same file as an input (also through links), already there, its
    folder missing or not writable.
    """
    try:
        _check(inputs, output, overwrite)
    except (OSError, ValueError) as error:  # a name that is too long or holds a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{output}: cannot be written ({reason}); choose another name with -o") from error


def _check(inputs: Path | Iterable[Path], output: Path, overwrite: bool) -> None:
    if output.is_dir():
        raise OutputError(f"{output}: is a folder; name a file in it with -o")
    if output.exists():
        for source in [inputs] if isinstance(inputs, Path) else inputs:
            if source.exists() and output.samefile(source):
                raise OutputError(f"{output}: is the input {source} itself; choose another name with -o")
        if not output.is_file():
            raise OutputError(f"{output}: is not a regular file; name one with -o")
    if (output.exists() or output.is_symlink()) and not overwrite:
        raise OutputError(f"{output}: exists; replace it with -y or choose another name with -o")
    folder = output.parent
    if not folder.exists():
        raise OutputError(f"{output}: there is no folder {folder}; create it or choose another with -o")
    if not folder.is_dir():
        raise OutputError(f"{output}: {folder} is not a folder; choose another place with -o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{output}: the folder {folder} is not writable; choose another with -o")


def numbered_names(pattern: Path, count: int) -> tuple[Path, ...]:
    """The files of a pattern such as 'frame_%05d.png', numbered from 1 as FFmpeg does.

    Raises OutputError when the file name has not exactly one number, or its folder has one.
    """
    if len(FRAME_NUMBER.findall(pattern.name)) != 1 or FRAME_NUMBER.search(str(pattern.parent)):
        raise OutputError(f"{pattern}: needs exactly one number, such as %05d, in the file name")
    match = FRAME_NUMBER.search(pattern.name)
    assert match is not None
    before, after = pattern.name[: match.start()], pattern.name[match.end() :]
    width = int(match.group(1) or "0")
    return tuple(pattern.with_name(f"{before}{number:0{width}d}{after}") for number in range(1, count + 1))


def companions_of(clip: Clip) -> Companions:
    """What belongs to a coded clip beside its pictures: sound, how to show it, its size without padding."""
    rotation, mirrored, matrix = clip.rotation, False, clip.display_matrix
    if matrix is not None and matrix[0] * matrix[4] < matrix[1] * matrix[3]:
        # It mirrors: what turns is left when x is negated again.
        rotation, mirrored = round(-math.degrees(math.atan2(matrix[1], -matrix[0]))), True
    return Companions(
        source=clip.path if clip.kind == "video" else None,
        rotation=rotation,
        mirrored=mirrored,
        sample_aspect_ratio=clip.sample_aspect_ratio,
        tag={"width": clip.width, "height": clip.height},
    )
