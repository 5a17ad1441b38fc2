"""Making a QP map legal for an encoder before it is written: range, jumps between blocks, number of levels.

Encoders do not refuse an illegal map. kvazaar aborts, and without its asserts writes a corrupt stream with
exit code 0 or hangs. So a map is made legal first, by lowering QPs only: nowhere does the quality fall below
what was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from codec_wrappers.qpmap import QPMap

QPArray = npt.NDArray[np.int16]

# cu_qp_delta of 8-bit HEVC (ITU-T H.265, 7.4.9.14): how far a block's QP may lie from its predicted QP.
HEVC_MAX_FALL = 26
HEVC_MAX_RISE = 25
# AV1 has eight segments per frame, each with one quantiser offset (AV1 specification, 5.9.14).
AV1_MAX_LEVELS = 8


@dataclass(frozen=True)
class MapRules:
    """What an encoder accepts in a map.

    qp_min, qp_max: its QP range, inclusive.
    max_fall, max_rise: how far the QP of a block may lie below or above that of any block before it in
        coding order; None: any distance. Any block, not only the neighbour: a block without residual codes
        no QP, and the next one is predicted from the last that did. Which blocks these are depends on the
        content, so the rule is made independent of it.
    rows_restart: the prediction starts anew at each row (wavefront coding), so that only blocks of one row
        bind each other; else all blocks of a frame do.
    max_levels: different QPs that one frame may hold; None: any number. Not together with jumps, which
        no encoder asks for.
    """

    qp_min: int
    qp_max: int
    max_fall: int | None = None
    max_rise: int | None = None
    rows_restart: bool = True
    max_levels: int | None = None

    def __post_init__(self) -> None:
        if self.max_levels is not None and (self.max_fall is not None or self.max_rise is not None):
            raise InputError("map rules: max_levels cannot be combined with max_fall or max_rise")


@dataclass(frozen=True)
class LegalisedMap:
    """A legal map, and what it took.

    moved: blocks lowered because of jumps or levels; clipped: blocks that lay outside the QP range.
    A block that was clipped and then lowered counts in both.
    """

    map: QPMap
    moved: int
    clipped: int


def legalise(qp_map: QPMap, rules: MapRules) -> LegalisedMap:
    """The highest legal map that lies nowhere above `qp_map` (clipped to the range).

    As to the jumps it is the only such map: every block that moves had to move, and by no less. As to
    `max_levels` the levels are chosen so that the QPs of a frame fall by the smallest sum. A legal map
    comes back unchanged, so legalising twice is legalising once.
    """
    inside = np.clip(qp_map.qp, rules.qp_min, rules.qp_max)
    legal = _limit_jumps(inside, rules)
    if rules.max_levels is not None:
        legal = np.stack([_limit_levels(frame, rules.max_levels) for frame in legal])
    return LegalisedMap(
        map=qp_map.with_qp(legal),
        moved=int((legal != inside).sum()),
        clipped=int((inside != qp_map.qp).sum()),
    )


def is_legal(qp_map: QPMap, rules: MapRules) -> bool:
    """True when `legalise` would change nothing."""
    done = legalise(qp_map, rules)
    return done.moved == 0 and done.clipped == 0


def require_legal(qp_map: QPMap, rules: MapRules, block_size: int, encoder: str) -> None:
    """Raise InputError when an encoder would choke on the map: the last gate before a command line."""
    if qp_map.block_size != block_size:
        raise InputError(
            f"QP map: blocks of {qp_map.block_size}; {encoder} takes {block_size}: use QPMap.resampled({block_size})"
        )
    done = legalise(qp_map, rules)
    if done.moved or done.clipped:
        raise InputError(
            f"QP map: {done.clipped} blocks outside {rules.qp_min}..{rules.qp_max} and {done.moved} beyond "
            f"what {encoder} can code: pass it through legalise() first"
        )


def _limit_jumps(qp: QPArray, rules: MapRules) -> QPArray:
    """Apply max_fall and max_rise to int16 [frames, rows, cols].

    A block may exceed no earlier block by more than the rise and no later one by more than the fall. Both
    bounds hold for the asked QPs as well as for the lowered ones, hence one pass over running minima is
    enough, and its result is the highest possible.
    """
    lines = qp if rules.rows_restart else qp.reshape(qp.shape[0], 1, -1)
    bound = lines.copy()
    if rules.max_rise is not None:
        lowest_before = np.minimum.accumulate(lines, axis=2)
        np.minimum(bound, lowest_before + np.int16(rules.max_rise), out=bound)
    if rules.max_fall is not None:
        lowest_after = np.minimum.accumulate(lines[:, :, ::-1], axis=2)[:, :, ::-1]
        np.minimum(bound, lowest_after + np.int16(rules.max_fall), out=bound)
    return bound.reshape(qp.shape)


def _limit_levels(frame: QPArray, max_levels: int) -> QPArray:
    """Lower the QPs of one frame [rows, cols] to at most `max_levels` ones, at the least sum lowered.

    Exact by dynamic programming over the sorted QPs: each level serves a run of neighbouring QPs and is
    the lowest of them.
    """
    values, counts = np.unique(frame, return_counts=True)
    n = len(values)
    if n <= max_levels:
        return frame
    weight = np.concatenate([[0], np.cumsum(counts)])
    total = np.concatenate([[0], np.cumsum(counts * values.astype(np.int64))])
    # cost[a, b]: sum lowered when values a..b-1 all become values[a]; only a < b is a run.
    start, stop = np.arange(n)[:, None], np.arange(n + 1)[None, :]
    cost = (total[stop] - total[start]) - values.astype(np.int64)[start] * (weight[stop] - weight[start])
    cost = np.where(start < stop, cost, np.iinfo(np.int64).max // 4)
    best = cost[0]
    cuts = [np.zeros(n + 1, np.int64)]
    for _ in range(max_levels - 1):
        with_one_more = best[:n, None] + cost
        with_one_more[0] = cost[0]
        cuts.append(with_one_more.argmin(axis=0))
        best = with_one_more.min(axis=0)
    lowered = values.copy()
    end = n
    for cut in reversed(cuts):
        begin = int(cut[end])
        lowered[begin:end] = values[begin]
        end = begin
        if end == 0:
            break
    return lowered[np.searchsorted(values, frame)].astype(np.int16)
