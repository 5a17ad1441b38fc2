"""QP maps from and to files, the format chosen by the suffix.

.npz and .png hold the whole map. .txt and .bin are kvazaar's ROI files (also uvg266's) and need the picture's
size and the base QP to be read again. The other formats have no suffix of their own: see
`codec_wrappers.mapio`.
"""

from dataclasses import dataclass
from pathlib import Path

from codec_wrappers.errors import InputError, OutputError
from codec_wrappers.mapio import kvazaar_roi, npz, png
from codec_wrappers.qpmap import CTU_SIZE, QPMap

SUFFIXES = (".npz", ".png", ".txt", ".bin")


@dataclass(frozen=True)
class RoiContext:
    """What a ROI file does not say: the QP it is relative to, and the picture (luma samples) it is for."""

    base_qp: int
    width: int
    height: int
    block_size: int = CTU_SIZE


def write_qpmap(qp_map: QPMap, path: Path, base_qp: int | None = None) -> None:
    """Write a map in the format of the path's suffix.

    base_qp: the QP the encoder will be given; needed for .txt and .bin.
    Raises InputError for another suffix or a missing base, OutputError when the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix in (".txt", ".bin") and base_qp is None:
        raise InputError(f"{path}: a ROI file holds offsets; give the base QP that the encoder will run at")
    if suffix == ".npz":
        content = npz.to_npz(qp_map)
    elif suffix == ".png":
        content = png.to_png(qp_map)
    elif suffix == ".txt" and base_qp is not None:
        content = kvazaar_roi.to_text(qp_map, base_qp).encode()
    elif suffix == ".bin" and base_qp is not None:
        content = kvazaar_roi.to_binary(qp_map, base_qp)
    else:
        raise InputError(f"{path}: no QP map format of this suffix; use one of {', '.join(SUFFIXES)}")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def read_qpmap(path: Path, roi: RoiContext | None = None) -> QPMap:
    """Read a map in the format of the path's suffix; `roi` is needed for .txt and .bin.

    Raises InputError when the file is missing, damaged, for another picture or of no known kind.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return npz.read_npz(path)
    if suffix == ".png":
        return png.read_png(path)
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: no QP map format of this suffix; use one of {', '.join(SUFFIXES)}")
    if roi is None:
        raise InputError(f"{path}: a ROI file holds offsets only; give base QP and picture size")
    read = kvazaar_roi.read_text_map if suffix == ".txt" else kvazaar_roi.read_binary
    return read(path, roi.base_qp, roi.width, roi.height, roi.block_size)
