"""x265's lists of QPs per frame: the value of `--zones` and the content of a `--qpfile`.

Both know frames, not blocks: a map is written as the lowest QP of each frame, so that no block gets worse
than it was asked. Frames are counted from 0 in display order in both, as the x265 documentation has it. (libx265 4.x
with `--qp` counts otherwise; the encoder plug-in `codec_wrappers.x265` knows.)
"""

import re
from pathlib import Path

import numpy as np

from codec_wrappers.errors import InputError
from codec_wrappers.mapio.text import integers, read_text
from codec_wrappers.qpmap import QPMap

_ZONE = re.compile(r"(\d{1,9}),(\d{1,9}),q=(\d{1,3})", re.ASCII)
_QPFILE_TYPES = frozenset("IiKPBb")


def frame_qps(qp_map: QPMap) -> list[int]:
    """The lowest QP of each frame."""
    return [int(qp) for qp in qp_map.qp.min(axis=(1, 2))]


def to_zones(qp_map: QPMap) -> str:
    """Value of x265's `zones` option: runs of equal QP as `first,last,q=QP`, joined by slashes."""
    qps = frame_qps(qp_map)
    starts = [at for at in range(len(qps)) if at == 0 or qps[at] != qps[at - 1]]
    stops = [*starts[1:], len(qps)]
    return "/".join(f"{start},{stop - 1},q={qps[start]}" for start, stop in zip(starts, stops, strict=True))


def parse_zones(text: str, width: int, height: int) -> QPMap:
    """The map that zones describe: one block per picture. Raises InputError for gaps, overlaps, no `q=`."""
    qps: list[int] = []
    for zone in text.strip().split("/"):
        match = _ZONE.fullmatch(zone)
        if match is None:
            raise InputError(f"zones: {zone[:40]!r} is not 'first,last,q=QP'")
        first, last, qp = map(int, match.groups())
        if first != len(qps) or last < first:
            raise InputError(f"zones: {zone!r} does not follow frame {len(qps) - 1}")
        qps += [qp] * (last - first + 1)
    return _one_block_map(qps, width, height)


def to_qpfile(qp_map: QPMap) -> str:
    """Content of a qpfile: frame number, type, QP.

    x265 wants a type with every QP. The first frame is I (IDR), all others P: with B their order would have
    to be known.
    """
    return "".join(f"{at} {'P' if at else 'I'} {qp}\n" for at, qp in enumerate(frame_qps(qp_map)))


def read_qpfile(path: Path, width: int, height: int) -> QPMap:
    """The map of a qpfile that gives every frame a QP, of whatever type. Raises InputError otherwise."""
    qps: list[int] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[1] not in _QPFILE_TYPES:
            raise InputError(f"{path}: line {number} is not 'frame type QP' with a type of I i K P B b")
        frame, qp = integers([words[0], words[2]], path, f"line {number}")
        if frame != len(qps):
            raise InputError(f"{path}: line {number} is frame {frame}, not {len(qps)}; list every frame once")
        qps.append(qp)
    if not qps:
        raise InputError(f"{path}: holds no frames")
    return _one_block_map(qps, width, height)


def _one_block_map(qps: list[int], width: int, height: int) -> QPMap:
    return QPMap(np.array(qps).reshape(-1, 1, 1), max(width, height), width, height)
