"""QP maps as NumPy archives: everything, exactly."""

import io
import zipfile
from pathlib import Path

import numpy as np

from codec_wrappers.errors import InputError
from codec_wrappers.mapio.text import read_bytes
from codec_wrappers.qpmap import QPMap

_SIZES = ("block_size", "width", "height")


def to_npz(qp_map: QPMap) -> bytes:
    """Content of an archive with `qp` int16 [frames, rows, cols] and the scalars block_size, width, height."""
    block_size, width, height = (np.array(getattr(qp_map, name)) for name in _SIZES)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, qp=qp_map.qp, block_size=block_size, width=width, height=height)
    return buffer.getvalue()


def read_npz(path: Path) -> QPMap:
    """Read what `to_npz` wrote. Raises InputError for anything else; never unpickles."""
    data = read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            missing = [name for name in ("qp", *_SIZES) if name not in archive]
            if missing:
                raise InputError(f"{path}: lacks {', '.join(missing)}; is it a QP map?")
            qp = archive["qp"]
            block_size, width, height = (int(archive[name]) for name in _SIZES)
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{path}: is not a NumPy archive of a QP map ({error})") from error
    try:
        return QPMap(qp, block_size, width, height)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
