"""Whether a video file is whole, by the sizes that its container states: nothing is decoded.

A raw stream states none, and a transport stream cut at a packet border cannot be told from a shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_FRAME_HEADER = b"FRAME\n"


def missing_bytes(path: Path) -> str | None:
    """What an MP4, Matroska or RIFF file lacks of its stated size, in words; None where it lacks nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        if head[4:8] in _FIRST_BOXES:
            stated = _boxes_end(file, size)
        elif head[:4] == b"RIFF":
            stated = _riff_end(head)
        elif head[:4] == _EBML:
            stated = _matroska_end(head)
        else:
            return None
    return f"{size} of {stated} bytes are there" if stated > size else None


def y4m_ends_within_frame(path: Path, positions: Sequence[int | None], frame_bytes: int) -> bool:
    """Whether a Y4M file is no header and n whole frames. Told only if frame headers carry no parameters.

    positions: where the packets of the file begin, as demuxed; frame_bytes: of one frame without its header.
    """
    if len(positions) < 2 or positions[0] is None or positions[1] is None:
        return False
    step = positions[1] - positions[0]
    if step != frame_bytes + len(_FRAME_HEADER):
        return False
    with path.open("rb") as file:
        header = len(file.readline(512))
    return (path.stat().st_size - header) % step != 0


def _boxes_end(file: IO[bytes], size: int) -> int:
    """End of the last top-level MP4 box that begins within the file (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        box = file.read(16)
        length = int.from_bytes(box[:4], "big")
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        if length < 8 or not box[4:8].isalnum():  # 0: to the end of the file; else no box, something appended
            return 0
        at += length
    return at


def _riff_end(head: bytes) -> int:
    """End of the first RIFF chunk; 0 where it was written to a pipe and its size is unknown."""
    length = int.from_bytes(head[4:8], "little")
    return 0 if length in (0, 0xFFFFFFFF) else 8 + length


def _matroska_end(head: bytes) -> int:
    """Byte at which the Matroska segment ends by its header; 0 where unknown (live recording)."""
    header_size, at = _ebml_size(head, len(_EBML))
    at += header_size
    if header_size < 0 or head[at : at + 4] != _SEGMENT:
        return 0
    size, at = _ebml_size(head, at + 4)
    return at + size if size >= 0 else 0


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """EBML variable-length size (RFC 8794, 4) at a position: size (-1: unknown) and position after it."""
    if at >= len(data) or data[at] == 0:
        return -1, at
    length = 9 - data[at].bit_length()
    all_ones = (1 << (7 * length)) - 1
    value = int.from_bytes(data[at : at + length], "big") & all_ones
    return (-1 if value == all_ones else value), at + length
