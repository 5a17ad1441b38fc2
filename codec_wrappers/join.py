"""Coded pieces of different QP -> one playable file, with the source's timestamps and its other streams.

Parameter sets differ from piece to piece (they carry the QP), so they must stay in the stream. The recipe
that decodes every frame: each piece to Annex B, all pieces into one raw stream, and that muxed anew with
timestamps of our own. (The concat demuxer, MPEG-TS and `dump_extra` lose frames; see docs/encoders.md.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec_wrappers.encoder import Encoder
from codec_wrappers.errors import EncoderError, InputError
from codec_wrappers.ffmpeg import ffmpeg_path
from codec_wrappers.process import ProcessGroup, run_process

if TYPE_CHECKING:
    import av
    import av.video.stream

_TO_ANNEX_B = {"vvc": "vvc_mp4toannexb", "hevc": "hevc_mp4toannexb"}

# Containers by suffix, and the muxer that writes each: FFmpeg's own choice for .m4v takes none of our codecs.
# Raw streams carry pictures only: no timestamps, no audio.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
RAW_SUFFIXES = {".266": "vvc", ".vvc": "vvc", ".265": "hevc", ".hevc": "hevc", ".obu": "av1"}

COPY_TIMEOUT_S = 1800.0
PROBE_TIMEOUT_S = 60.0
# An OBU stream separates its pictures by these; containers leave them out.
_TEMPORAL_DELIMITER = b"\x12\x00"

# Container tag with what the stream cannot say: the picture size before padding, and the plan in short.
TAG = "vcm"


@dataclass(frozen=True)
class Timing:
    """When each frame is shown: `pts[i] * time_base` seconds for frame i, rising."""

    time_base: Fraction
    pts: Sequence[int]


@dataclass(frozen=True)
class Companions:
    """What a file holds besides its coded pictures.

    source: file whose audio and subtitles, chapters and metadata are copied; None for none.
    rotation: degrees anticlockwise by which players turn the picture. mirrored: they then mirror it left to right.
    sample_aspect_ratio: width : height of one sample.
    tag: stored as JSON in the container tag `vcm`.
    """

    source: Path | None = None
    rotation: int = 0
    mirrored: bool = False
    sample_aspect_ratio: Fraction = Fraction(1)
    tag: Mapping[str, object] | None = None


@dataclass(frozen=True)
class _Access:
    """One coded picture in decode order: display index, size in bytes, key frame or not."""

    index: int
    size: int
    key: bool


def check_suffix(output: Path, encoder: Encoder) -> None:
    """Raise InputError when the output's suffix names no container, or the raw stream of another codec."""
    suffix = output.suffix.lower()
    if suffix in RAW_SUFFIXES:
        if RAW_SUFFIXES[suffix] != encoder.codec:
            raise InputError(f"{output}: a raw {RAW_SUFFIXES[suffix]} stream cannot hold {encoder.codec}; use .mp4")
    elif suffix not in CONTAINERS:
        known = ", ".join((*CONTAINERS, *RAW_SUFFIXES))
        raise InputError(f"{output}: unknown suffix {suffix!r}; use one of {known}")
    elif suffix == ".mov" and encoder.codec == "av1":
        raise InputError(f"{output}: QuickTime has no mapping for AV1; use .mp4 or .mkv")


def check_companions(source: Path, output: Path) -> None:
    """Raise InputError when the output's container cannot hold the sound and subtitles of `source`.

    Asked of ffmpeg by writing the header alone, which takes some 20 ms; not after hours of encoding.
    """
    import ffmpeg

    suffix = output.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return
    # MP4 headers can only be written to a file that can be sought in, or in fragments.
    source_input = ffmpeg.input(_url(source))
    options = {"t": 0, "format": CONTAINERS[suffix], **_codecs_of_copies(source, suffix)}
    if suffix != ".mkv":
        options["movflags"] = "frag_keyframe+empty_moov"
    trial = ffmpeg.output(*_copied_streams(source_input, suffix), "/dev/null", **options)
    argv = trial.global_args("-nostdin", "-loglevel", "error").compile(cmd=str(ffmpeg_path()), overwrite_output=True)
    try:
        run_process(argv, timeout_s=PROBE_TIMEOUT_S)
    except EncoderError as error:
        way = "convert the sound and subtitles first" if suffix == ".mkv" else "use -o NAME.mkv"
        raise InputError(f"{source}: its sound or subtitles do not fit into {suffix}; {way} ({error})") from error


def join(
    pieces: Sequence[Path],
    encoder: Encoder,
    output: Path,
    timing: Timing,
    companions: Companions,
    work_dir: Path,
    group: ProcessGroup | None = None,
) -> int:
    """Write pieces, in order, as one file; returns the coded size of all pictures in bits.

    pieces: MP4 files from `Encoder.command`, their frames counted from 0 each. output: a name in
    `CONTAINERS` or `RAW_SUFFIXES`. Raises EncoderError when pieces and timestamps do not agree.
    """
    raw = work_dir / f"joined.{encoder.raw_format}"
    pictures = _concatenate(pieces, encoder, raw)
    if len(pictures) != len(timing.pts):
        raise EncoderError(f"{encoder.name}: coded {len(pictures)} pictures of {len(timing.pts)}; try another preset")
    bits = 8 * sum(picture.size for picture in pictures)
    if output.suffix.lower() in RAW_SUFFIXES:
        shutil.move(raw, output)
        return bits
    video = work_dir / "video.mp4"
    _mux(raw, pieces, encoder, pictures, timing, video)
    _add_companions(video, output, companions, group)
    return bits


def coded_bits(path: Path) -> int:
    """Bits of the coded pictures in a file, without container overhead.

    With the parameter sets that stand among the pictures, as they do in all files of `join`; without those that
    only the container's header has.
    """
    import av

    with av.open(_url(path)) as container:
        packets = (bytes(packet) for packet in container.demux(video=0))
        return 8 * sum(len(data.removeprefix(_TEMPORAL_DELIMITER)) for data in packets)


@dataclass(frozen=True)
class CodedPiece:
    """What a piece holds: pictures, and the bits that they will have in a joined file with the parameter sets that
    come before them."""

    n_pictures: int
    bits: int


def coded_piece(piece: Path) -> CodedPiece:
    """Count what an encoder wrote; nothing where the file is missing, empty or no video."""
    import av

    try:
        with av.open(str(piece)) as container:
            stream = container.streams.video[0]
            sizes = [len(data) for data in _as_raw(stream, container.demux(stream))]
    except (av.FFmpegError, OSError, IndexError):
        return CodedPiece(0, 0)
    return CodedPiece(len(sizes), 8 * sum(sizes))


def _as_raw(
    stream: av.video.stream.VideoStream, packets: Iterable[av.Packet[av.video.stream.VideoStream]]
) -> Iterator[bytes]:
    """The packets of a piece as a raw stream has them: key pictures of VVC and HEVC carry their parameter sets."""
    from av.bitstream import BitStreamFilterContext

    name = _TO_ANNEX_B.get(stream.codec_context.codec.canonical_name)
    to_raw = BitStreamFilterContext(name, stream) if name else None
    for packet in packets:
        if packet.size:
            yield b"".join(bytes(part) for part in to_raw.filter(packet)) if to_raw else bytes(packet)


def _concatenate(pieces: Sequence[Path], encoder: Encoder, raw: Path) -> list[_Access]:
    import av

    pictures: list[_Access] = []
    start = 0
    separator = _TEMPORAL_DELIMITER if encoder.codec == "av1" else b""
    with raw.open("wb") as file:
        for piece in pieces:
            with av.open(str(piece)) as container:
                stream = container.streams.video[0]
                packets = [packet for packet in container.demux(stream) if packet.size]
                # Display order within the piece: its own timestamps only tell the order.
                ranks = {pts: rank for rank, pts in enumerate(sorted(int(p.pts or 0) for p in packets))}
                # Noted before the conversion, which takes a packet's content away.
                facts = [(start + ranks[int(packet.pts or 0)], packet.is_keyframe) for packet in packets]
                for (index, key), data in zip(facts, _as_raw(stream, packets), strict=True):
                    file.write(separator + data)
                    pictures.append(_Access(index, len(data), key))
                start += len(packets)
    return pictures


def decode_times(pts_in_decode_order: Sequence[int]) -> list[int]:
    """Decoding times for pictures in decode order: rising, and never after the picture is shown.

    The i-th picture is decoded when the i-th picture would be shown, all moved back by the same reordering
    delay, so constant and variable frame rates are served alike.
    """
    shown = sorted(pts_in_decode_order)
    delay = max((d - p for d, p in zip(shown, pts_in_decode_order, strict=True)), default=0)
    return [d - delay for d in shown]


def _mux(
    raw: Path, pieces: Sequence[Path], encoder: Encoder, pictures: Sequence[_Access], timing: Timing, output: Path
) -> None:
    """Mux a raw stream with the given timestamps (video only)."""
    import av

    shown = [timing.pts[picture.index] for picture in pictures]
    decoded = decode_times(shown)
    gap = timing.pts[-1] - timing.pts[-2] if len(timing.pts) > 1 else max(1, round(1 / (25 * timing.time_base)))
    next_shown = {pts: after - pts for pts, after in zip(timing.pts, timing.pts[1:], strict=False)}
    # AV1's sequence header does not depend on the QP, and MP4 keeps its packets as they are.
    readers = [av.open(str(piece)) for piece in pieces] if encoder.codec == "av1" else []
    container = readers[0] if readers else av.open(str(raw), format=encoder.raw_format)
    with container, av.open(str(output), "w") as sink:
        template = container.streams.video[0]
        stream = sink.add_stream_from_template(template, opaque=True)
        stream.time_base = timing.time_base
        sources = readers or [container]
        packets = (packet for reader in sources for packet in reader.demux(video=0) if packet.size)
        written = 0
        for packet, pts, dts, picture in zip(packets, shown, decoded, pictures, strict=False):
            packet.stream = stream
            packet.time_base = timing.time_base
            packet.pts, packet.dts = pts, dts
            packet.duration = next_shown.get(pts, gap)
            packet.is_keyframe = picture.key
            sink.mux(packet)
            written += 1
    for reader in readers:
        reader.close()
    if written != len(pictures):
        raise EncoderError(f"{encoder.name}: {written} of {len(pictures)} pictures found in the joined stream")


def _add_companions(video: Path, output: Path, companions: Companions, group: ProcessGroup | None) -> None:
    """Copy the coded video and the source's other streams into the final container, timestamps untouched."""
    import ffmpeg

    suffix = output.suffix.lower()
    turn: dict[str, int | None] = {"display_rotation": companions.rotation} if companions.rotation else {}
    if companions.mirrored:
        turn["display_hflip"] = None
    streams = [ffmpeg.input(_url(video), **turn)["v:0"]]
    options: dict[str, object] = {"c:v": "copy", "avoid_negative_ts": "disabled", "format": CONTAINERS[suffix]}
    if companions.source is not None:
        source = ffmpeg.input(_url(companions.source))
        streams += _copied_streams(source, suffix)
        options |= {"map_metadata": 1, "map_chapters": 1, **_codecs_of_copies(companions.source, suffix)}
    if companions.sample_aspect_ratio != 1 and companions.sample_aspect_ratio > 0:
        # ffmpeg asks for the aspect ratio of the picture, which is that of the coded (padded) one here.
        shown = companions.sample_aspect_ratio * _coded_aspect(video)
        options["aspect:v:0"] = f"{shown.numerator}:{shown.denominator}"
    if companions.tag is not None:
        options["metadata"] = f"{TAG}={json.dumps(companions.tag, separators=(',', ':'))}"
    if suffix != ".mkv":
        options["movflags"] = "+faststart+use_metadata_tags"
    copy = ffmpeg.output(*streams, str(output), **options).global_args("-copyts", "-nostdin", "-loglevel", "error")
    run_process(copy.compile(cmd=str(ffmpeg_path()), overwrite_output=True), timeout_s=COPY_TIMEOUT_S, group=group)


def _copied_streams(source: Any, suffix: str) -> list[Any]:
    """Sound, subtitles and (Matroska) attachments of an input, as far as it has them."""
    return [source[f"{kind}?"] for kind in (("a", "s", "t") if suffix == ".mkv" else ("a", "s"))]


def _codecs_of_copies(source: Path, suffix: str) -> dict[str, object]:
    """ffmpeg options for the sound, subtitles and (Matroska) attachments of a source.

    Text subtitles are rewritten as the container has them; pictures of text go into Matroska only.
    """
    import av

    if suffix != ".mkv":
        return {"c:a": "copy", "c:s": "mov_text"}
    options: dict[str, object] = {"c:a": "copy", "c:t": "copy", "c:s": "copy"}
    with av.open(_url(source)) as container:
        for at, stream in enumerate(container.streams.subtitles):
            if stream.codec_context.name == "mov_text":
                options[f"c:s:{at}"] = "srt"
    return options


def _coded_aspect(video: Path) -> Fraction:
    import av

    with av.open(str(video)) as container:
        context = container.streams.video[0].codec_context
        return Fraction(context.width, context.height)


def _url(path: Path) -> str:
    """A path that FFmpeg takes for nothing else: it reads 'a:b.mp4' as protocol 'a'."""
    return f"file:{path}"
