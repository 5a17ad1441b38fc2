"""What a coded picture says of itself, from the output of ffmpeg's `trace_headers` bitstream filter.

The filter prints every syntax element of every header on its way to the file. That is the truest read-back
of a QP: it is what a decoder will use. (x265's own CSV file, in contrast, reports the QP of `--qp` even where
a zone has replaced it.) Measured cost: 40 lines, 4 KB of log per picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from codec_wrappers.capabilities import Codec
from codec_wrappers.encoder import PictureRecord
from codec_wrappers.mapio.svtav1_lines import qp_of_qindex

# Name of the filter, for `-bsf:v`.
TRACE_FILTER = "trace_headers"

# '[trace_headers @ 0x5556] 59          slice_qp_delta          00000110010 = 25', and
# '[trace_headers @ 0x5556] Packet: 35 bytes, key frame, pts 0, dts -1, duration 1.'
_LINE = re.compile(r"\[trace_headers @ [^\]]*\] (?:Packet: (\d+) bytes|\d+\s+([a-z]\w*)\s+[01]* ?= (-?\d+))")

_HEVC_IDR = (19, 20)
_VVC_IDR = (7, 8)
_SLICE_KINDS = "BPI"
_AV1_KEY, _AV1_INTRA_ONLY = 0, 2


def read_trace(codec: Codec, log: str) -> tuple[PictureRecord, ...]:
    """Records of all coded pictures in decode order, from a log that holds the filter's output.

    A record's index is the display index, counted from 0. The QP is the picture's first slice QP (for AV1
    the QP of SVT-AV1's scale, 0..63, whose quantiser index is the picture's); offsets of single blocks come
    on top. The bits are those of its packet; an AV1 packet also holds the pictures that it needs but does
    not show.
    """
    return _read_av1(log) if codec == "av1" else _read_nal(log, _NAMES[codec])


def _packets(log: str) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """Size in bytes of each packet and the elements printed for it, in order.

    Elements before the first packet (parameter sets outside the stream) come as a packet of 0 bytes.
    """
    size, elements = 0, list[tuple[str, int]]()
    for match in _LINE.finditer(log):
        bytes_, name, value = match.groups()
        if bytes_ is not None:
            yield size, elements
            size, elements = int(bytes_), []
        else:
            elements.append((name, int(value)))
    yield size, elements


@dataclass(frozen=True)
class _Names:
    """How HEVC and VVC call the elements that matter."""

    idr: tuple[int, ...]
    init_qp: str
    poc_lsb: str
    poc_lsb_bits: str
    slice_type: str
    qp_delta: frozenset[str]


_NAMES: dict[str, _Names] = {
    "hevc": _Names(
        idr=_HEVC_IDR,
        init_qp="init_qp_minus26",
        poc_lsb="slice_pic_order_cnt_lsb",
        poc_lsb_bits="log2_max_pic_order_cnt_lsb_minus4",
        slice_type="slice_type",
        qp_delta=frozenset({"slice_qp_delta"}),
    ),
    "vvc": _Names(
        idr=_VVC_IDR,
        init_qp="pps_init_qp_minus26",
        poc_lsb="ph_pic_order_cnt_lsb",
        poc_lsb_bits="sps_log2_max_pic_order_cnt_lsb_minus4",
        slice_type="sh_slice_type",
        qp_delta=frozenset({"sh_qp_delta", "ph_qp_delta"}),
    ),
}


@dataclass
class _NalState:
    """What later pictures need to know of earlier ones, and of the parameter sets."""

    init_qp: int = 26
    poc_cycle: int = 16
    # Pictures before the last IDR picture: all of them are shown before it.
    before_idr: int = 0
    previous_poc: int = 0
    seen: int = field(default=0)


def _read_nal(log: str, names: _Names) -> tuple[PictureRecord, ...]:
    state, records = _NalState(), []
    for size, elements in _packets(log):
        record = _nal_picture(elements, size, state, names)
        if record is not None:
            records.append(record)
    return tuple(records)


def _nal_picture(elements: list[tuple[str, int]], size: int, state: _NalState, names: _Names) -> PictureRecord | None:
    """The picture in a packet, None if it holds only parameter sets."""
    kind, qp, poc_lsb, idr = "I", None, 0, False
    for name, value in elements:
        if name == names.init_qp:
            state.init_qp = 26 + value
        elif name == names.poc_lsb_bits:
            state.poc_cycle = 1 << (value + 4)
        elif name == "nal_unit_type":
            idr |= value in names.idr
        elif name == names.poc_lsb:
            poc_lsb = value
        elif qp is None and name == names.slice_type:
            kind = _SLICE_KINDS[value]
        elif qp is None and name in names.qp_delta:
            qp = state.init_qp + value
    if qp is None:
        return None
    if idr:
        state.before_idr, state.previous_poc = state.seen, 0
    poc = 0 if idr else _whole_poc(poc_lsb, state.previous_poc, state.poc_cycle)
    state.previous_poc = poc
    state.seen += 1
    return PictureRecord(state.before_idr + poc, kind, float(qp), 8 * size)


def _whole_poc(lsb: int, previous: int, cycle: int) -> int:
    """The picture order count nearest to the previous picture's that ends in `lsb` (H.265, 8.3.1)."""
    return previous + (lsb - previous + cycle // 2) % cycle - cycle // 2


@dataclass
class _Av1Frame:
    kind: str = "I"
    qp: float = 0.0


def _read_av1(log: str) -> tuple[PictureRecord, ...]:
    """AV1 shows exactly one picture per packet, coded there or earlier (`show_existing_frame`)."""
    slots: dict[int, _Av1Frame] = {}
    records: list[PictureRecord] = []
    for size, elements in _packets(log):
        shown = _av1_shown(elements, slots)
        if shown is not None:
            records.append(PictureRecord(len(records), shown.kind, shown.qp, 8 * size))
    return tuple(records)


def _av1_shown(elements: list[tuple[str, int]], slots: dict[int, _Av1Frame]) -> _Av1Frame | None:
    """Follow the frames of one packet through the eight reference slots; returns the one that is shown."""
    shown: _Av1Frame | None = None
    frame, visible, refresh = _Av1Frame(), True, 0xFF
    for name, value in elements:
        if name == "frame_to_show_map_idx":
            shown = slots.get(value)
        elif name == "frame_type":
            frame, visible, refresh = _Av1Frame("I" if value in (_AV1_KEY, _AV1_INTRA_ONLY) else "P"), True, 0xFF
        elif name == "show_frame":
            visible = bool(value)
        elif name == "refresh_frame_flags":
            refresh = value
        elif name == "base_q_idx":
            frame.qp = float(qp_of_qindex(value))
            slots.update({slot: frame for slot in range(8) if refresh >> slot & 1})
            shown = frame if visible else shown
        elif name == "reference_select" and value:
            frame.kind = "B"
    return shown
