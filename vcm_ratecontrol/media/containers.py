"""Videos: which stream, how many frames, when each is shown.

The packets are walked through once. Where a packet is a frame by definition of container and codec, they are
the frames; everywhere else (raw streams, AVI, field pairs, hidden frames, missing timestamps) the frames are
decoded and counted. Damage that the decoder meets is an error, here and in every later reading.
"""

from __future__ import annotations

import itertools
import re
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError
from vcm_ratecontrol.media.clip import Clip, StreamInfo
from vcm_ratecontrol.media.extent import missing_bytes, y4m_ends_within_frame

if TYPE_CHECKING:
    import av
    import av.container
    import av.stream
    import av.video.stream

# Demuxers by FFmpeg's names. Left out are those that open other files (playlists, picture sequences), that
# draw text as pictures (tty) and devices. Sound formats are in, to say that they have no video.
_DEMUXERS = (
    "mov,matroska,webm,avi,yuv4mpegpipe,h264,hevc,vvc,obu,av1,ivf,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,"
    "ogg,mxf,nut,gif,apng,mjpeg,dv,vc1,dirac,evc,cavsvideo,rm,aac,ac3,flac,mp3,wav,w64,amr,aiff,caf"
)

# Where every packet is exactly one shown frame.
_FRAME_PER_PACKET_CONTAINERS = {"mov", "matroska", "yuv4mpegpipe", "gif", "apng", "nut"}
_FRAME_PER_PACKET_CODECS = {
    *("h264", "hevc", "vvc", "av1", "libdav1d", "vp9", "mpeg4", "mjpeg", "rawvideo", "wrapped_avframe"),
    *("ffv1", "huffyuv", "ffvhuff", "utvideo", "prores", "dnxhd", "png", "qtrle", "gif", "apng", "v210"),
}

# What DivX and Xvid write of a packed bitstream: a packet holds a frame and the B-frame that is shown before it, and a
# later one holds next to nothing. Then packets have the number of the frames, and other times.
_PACKED_BITSTREAM = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+p")

_DEFAULT_RATE = Fraction(25)
# Raw streams without timing in their headers claim 1200000 frames per second.
_MAX_RATE = 1000


@dataclass(frozen=True)
class _Packet:
    pts: int | None
    key: bool
    discard: bool
    corrupt: bool
    position: int | None
    size: int


@dataclass(frozen=True)
class _Demuxed:
    """What a container says of its video, before any frame is decoded. rates: stated, the likeliest first. packed: see
    `_PACKED_BITSTREAM`."""

    container: str
    codec: str
    stream: int
    others: tuple[StreamInfo, ...]
    packets: tuple[_Packet, ...]
    time_base: Fraction
    rates: tuple[Fraction, ...]
    reordered: bool
    packed: bool
    sample_aspect_ratio: Fraction


def open_container(path: Path) -> av.container.InputContainer:
    """Open a media file by content, never what its text points to; decodes on all cores.

    Raises InputError.
    """
    import av

    try:
        try:
            container = _open(str(path))
        except av.FFmpegError:
            # A name such as .jpg can outvote the content of a raw stream: ask again without the name.
            with path.open("rb") as file:
                container = _open(f"/dev/fd/{file.fileno()}")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: neither a picture nor a video that can be read, or it is cut off; give a jpg, png, "
            "webp, tiff, bmp, avif, mp4, mov, mkv, webm, avi, y4m, 264, 265 or 266 file that plays"
        ) from error
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.thread_type = "AUTO"
            if stream.codec_context.name == "hevc":
                # It conceals damage and marks nothing; so it drops the frame at least. H.264 marks them
                # as incomplete, VVC and AV1 raise.
                stream.codec_context.options = {"err_detect": "explode"}
    return container


def _open(name: str) -> av.container.InputContainer:
    import av

    return av.open(f"file:{name}", container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"})


def video_stream(container: av.container.InputContainer, index: int) -> av.video.stream.VideoStream:
    """The video stream of that index in the container."""
    return next(stream for stream in container.streams.video if stream.index == index)


def decoded(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    from_key: int | None = None,
) -> Iterator[av.VideoFrame]:
    """Decode on from where the container stands.

    What does not decode before the first frame (a recording that begins within a GOP) is passed over.
    from_key: pass over packets up to the first key packet; stop there when it is shown after this time.
    Raises av.FFmpegError on damage.
    """
    import av

    begun, waiting = False, from_key is not None
    for packet in container.demux(stream):
        if waiting and not packet.is_keyframe:
            continue
        if waiting and from_key is not None and (packet.pts is None or packet.pts > from_key):
            return
        waiting = False
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if begun:
                raise
            continue
        for frame in frames:
            begun = True
            yield frame


def damaged(path: Path, reason: str) -> InputError:
    """The error for a video that does not decode as it should."""
    return InputError(
        f"{path}: the video is truncated or damaged ({reason}); copy it again, or keep what decodes with "
        "`ffmpeg -i IN -c:v ffv1 OUT.mkv`"
    )


def check_frame(path: Path, index: int, frame: av.VideoFrame, width: int, height: int) -> None:
    """Raise InputError when a decoded frame is incomplete or of another size than the clip."""
    if (frame.width, frame.height) != (width, height):
        raise InputError(
            f"{path}: the size changes from {width}x{height} to {frame.width}x{frame.height} at frame "
            f"{index}; cut the clip there, or scale it to one size first"
        )
    if frame.is_corrupt:
        raise damaged(path, f"frame {index} is incomplete")


def probe_video(path: Path) -> Clip:
    """Facts about a video file.

    Raises InputError: no video file, no video stream, no frames, truncated, damaged, too large.
    """
    from vcm_ratecontrol.media.convert import color_tags, rgb_matrix
    from vcm_ratecontrol.media.stills import MAX_SIDE

    if lack := missing_bytes(path):
        raise damaged(path, lack)
    facts = _demux(path)
    if any(packet.corrupt for packet in facts.packets):
        raise damaged(path, "a packet is incomplete")
    first = _first_frame(path, facts.stream)
    if max(first.width, first.height) > MAX_SIDE:
        size = f"{first.width}x{first.height}"
        raise InputError(f"{path}: the video is {size}, larger than {MAX_SIDE}x{MAX_SIDE}; scale it down first")
    color = color_tags(first)
    try:
        rgb_matrix(color, first.width, first.height)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error

    pts = _packet_timestamps(facts, first.pts) or _decoded_timestamps(path, facts.stream, first)
    if facts.container in ("hevc", "vvc") and len(pts) < len(facts.packets):
        raise damaged(path, f"{len(pts)} of {len(facts.packets)} pictures decode")
    keyframes, time_base = _key_indices(pts, facts.packets), facts.time_base
    if not keyframes:  # the numbers are no times: count at the stated rate
        tick = 1 / _stated_rate(facts.rates)
        pts, time_base = (
            tuple(index * tick.numerator for index in range(len(pts))),
            Fraction(1, tick.denominator),
        )
    rate, constant = _frame_rate(pts, time_base, facts.rates)
    return Clip(
        path=path,
        kind="video",
        width=first.width,
        height=first.height,
        n_frames=len(pts),
        frame_rate=rate,
        pts=pts,
        time_base=time_base,
        color=color,
        pix_fmt=first.format.name,
        bit_depth=max(component.bits for component in first.format.components),
        rotation=first.rotation,
        display_matrix=_display_matrix(first),
        sample_aspect_ratio=facts.sample_aspect_ratio,
        codec=facts.codec,
        container=facts.container,
        video_stream=facts.stream,
        streams=facts.others,
        constant_rate=constant,
        keyframes=keyframes,
    )


def _demux(path: Path) -> _Demuxed:
    """Walk through the packets of the first video stream that is no cover picture."""
    import av
    from av.stream import Disposition

    with open_container(path) as container:
        name = container.format.name.split(",")[0]
        films = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        stream = next(films, None)
        if stream is None or stream.codec_context is None:
            kinds = ", ".join(sorted({str(stream.type) for stream in container.streams})) or "nothing"
            raise InputError(f"{path}: no video stream that can be decoded (there is {kinds}); give a video file")
        packets = []
        try:
            for packet in container.demux(stream):
                if packet.size:
                    marks = (packet.is_keyframe, packet.is_discard, packet.is_corrupt)
                    packets.append(_Packet(packet.pts, *marks, packet.pos, packet.size))
        except av.FFmpegError as error:
            raise damaged(path, f"after {len(packets)} packets: {error.strerror}") from error
        if not packets:
            raise InputError(f"{path}: the video stream has no frames; record or export it again")
        if name == "yuv4mpegpipe" and y4m_ends_within_frame(path, [p.position for p in packets], packets[0].size):
            raise damaged(path, f"it ends within frame {len(packets)}")
        rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
        return _Demuxed(
            container=name,
            codec=stream.codec_context.name,
            stream=stream.index,
            others=tuple(_stream_info(other) for other in container.streams if other.index != stream.index),
            packets=tuple(packets),
            time_base=stream.time_base or 1 / _DEFAULT_RATE,
            rates=tuple(rate for rate in rates if rate is not None and 0 < rate <= _MAX_RATE),
            reordered=bool(stream.codec_context.has_b_frames),
            packed=_PACKED_BITSTREAM.search(stream.codec_context.extradata or b"") is not None,
            sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        )


def _stream_info(stream: av.stream.Stream) -> StreamInfo:
    context = getattr(stream, "codec_context", None)  # data streams have none
    return StreamInfo(stream.index, stream.type, context.name if context else "", stream.language)


def _first_frame(path: Path, index: int) -> av.VideoFrame:
    import av

    with open_container(path) as container:
        try:
            return next(decoded(container, video_stream(container, index)))
        except (av.FFmpegError, StopIteration) as error:
            raise damaged(path, "no frame decodes") from error


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    from av.sidedata.sidedata import SideData

    found = frame.side_data.get("DISPLAYMATRIX")
    return struct.unpack("=9i", bytes(found)[:36]) if isinstance(found, SideData) else None


def _packet_timestamps(facts: _Demuxed, first: int | None) -> tuple[int, ...] | None:
    """Timestamps of the frames from the packets alone; None where a packet may not be a frame.

    first: that of the first decoded frame. Packets shown before it (open GOP at a cut) are no frames.
    """
    intra_avi = facts.container == "avi" and not facts.reordered
    if facts.codec not in _FRAME_PER_PACKET_CODECS or facts.packed:
        return None
    if not (intra_avi or facts.container in _FRAME_PER_PACKET_CONTAINERS):
        return None
    shown = [packet.pts for packet in facts.packets if not packet.discard]
    times = sorted({pts for pts in shown if pts is not None})
    if len(times) != len(shown) or first not in times:
        return None
    return tuple(times[bisect_left(times, first) :])


def _decoded_timestamps(path: Path, index: int, first: av.VideoFrame) -> tuple[int, ...]:
    """Timestamps by decoding all frames; 0, 1, 2, ... where they do not rise. Raises InputError on damage."""
    import av

    times: list[int | None] = []
    with open_container(path) as container:
        try:
            for frame in decoded(container, video_stream(container, index)):
                check_frame(path, len(times), frame, first.width, first.height)
                times.append(frame.pts)
        except av.FFmpegError as error:
            raise damaged(path, f"frame {len(times)} does not decode") from error
    known = [time for time in times if time is not None]
    if len(known) == len(times) and all(earlier < later for earlier, later in itertools.pairwise(known)):
        return tuple(known)
    return tuple(range(len(times)))


def _key_indices(pts: tuple[int, ...], packets: Sequence[_Packet]) -> tuple[int, ...]:
    """Frames at which decoding can start, 0 among them; empty when `pts` are not the container's times."""
    times = {packet.pts for packet in packets}
    if None in times or not times.issuperset(pts):
        return ()
    keys = {packet.pts for packet in packets if packet.key and not packet.discard}
    return tuple(index for index, time in enumerate(pts) if index == 0 or time in keys)


def _stated_rate(rates: Sequence[Fraction]) -> Fraction:
    return rates[0] if rates else _DEFAULT_RATE


def _frame_rate(pts: Sequence[int], tick: Fraction, rates: Sequence[Fraction]) -> tuple[Fraction, bool]:
    """Mean frames per second, and whether every timestamp is within a tick of that rate.

    A rate that the container states is taken if the timestamps bear it out: Matroska's are rounded to 1 ms.
    """
    span = (pts[-1] - pts[0]) * tick
    if not span:
        return _stated_rate(rates), True
    mean = Fraction(len(pts) - 1) / span
    for rate in (*rates, mean.limit_denominator(1001)):
        step = 1 / (rate * tick)
        allowed, one = step.denominator, step.numerator
        if all(abs((time - pts[0]) * allowed - index * one) <= allowed for index, time in enumerate(pts)):
            return rate, True
    return mean.limit_denominator(100_000), False
