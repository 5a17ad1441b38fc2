"""Per-object coding against the flat QP of equal mAP: bits, on pictures and clips that nothing was fitted on.

    python -m benchmarks.jrd_coding --images DIR --machines DIR [--pictures 60] [--clips FILE ...] [--split test]

Judges are detectors other than those that chose the objects. What a judge detects on the original with at least 0.3
confidence is its ground truth; mAP@0.5 is COCO's, pooled over all pictures, and the mean over the judges. The flat
QPs make a curve of mAP over bits; per-object coding is held against the point of that curve at its own mAP. For
encoders without block QPs, how far pre-coding stays from an ideal coding with several QPs is measured too
(`--ideal`): the coarsest QP everywhere, plus what the finer layers cost by themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec_wrappers.encoder import Encoder, get_encoder
from codec_wrappers.errors import VcmError
from codec_wrappers.join import Timing
from codec_wrappers.pipeline import EncodeOptions, encode, encode_segment, guarded_group, pixel_format
from codec_wrappers.plan import EncodePlan, Segment
from vcm_ratecontrol.bench.detection_metrics import pseudo_average_precision
from vcm_ratecontrol.bench.matched import bits_at
from vcm_ratecontrol.jrd.analysis import clip_levels
from vcm_ratecontrol.jrd.coding import code_map, method_of, pooled
from vcm_ratecontrol.jrd.frame_levels import LevelSource
from vcm_ratecontrol.jrd.layers import BLOCK_SIZE, SegmentLayers, composite, evened, segment_layers
from vcm_ratecontrol.jrd.levels import DEFAULT_POOLING, Pooling
from vcm_ratecontrol.jrd.maps import background_qp_of, qp_map_of
from vcm_ratecontrol.jrd.sources import JRDSettings, opened_levels
from vcm_ratecontrol.labels.splits import split_of
from vcm_ratecontrol.machines.library import LibraryRef
from vcm_ratecontrol.machines.machine import Detections
from vcm_ratecontrol.media import Clip, cut_segments, open_clip, sample_indices
from vcm_ratecontrol.ratecontrol.probing import decoded_like
from vcm_ratecontrol.scoring import MachineRoom

FLAT_QPS = (27, 31, 35, 39, 43, 47, 51)
CHOOSERS = ("yolox_nano", "nanodet_m_416", "picodet_s_320", "yolov5n_int8", "yolo_fastest_1.1")
JUDGES = ("nanodet_plus_m_416", "yolov5n_fp16", "ssd_mobilenet_v2_fpnlite_256_int8", "yolo_fastestv2", "fastestdet")
FRAMES_PER_SEGMENT = 4

Looks = list[dict[str, Detections]]


@dataclass(frozen=True)
class Item:
    """A picture or clip, its segments, the frames that are judged, and what the judges see on the original."""

    clip: Clip
    key: str
    segments: tuple[range, ...]
    frames: tuple[int, ...]
    original: Looks


@dataclass(frozen=True)
class Coded:
    """One coding of an item. bits; looks: of the judges on its frames; share: of blocks that are objects."""

    bits: int
    looks: Looks
    share: float = 0.0


class Judging:
    """Codes items and has them judged; flat codings are kept on disk from run to run."""

    def __init__(self, room: MachineRoom, cache: Path | None) -> None:
        self.room, self.cache = room, cache

    def item(self, path: Path) -> Item:
        clip = open_clip(path)
        segments = cut_segments(clip) if clip.kind == "video" else (range(1),)
        frames = tuple(sorted({i for s in segments for i in sample_indices(s, FRAMES_PER_SEGMENT)}))
        key = hashlib.sha256(path.read_bytes()).hexdigest()
        return Item(clip, key, segments, frames, self.look(clip.read_rgb(frames)))

    def look(self, frames: Iterator[npt.NDArray[np.uint8]]) -> Looks:
        return [{n: r for n, r in self.room.look(f).results.items() if isinstance(r, Detections)} for f in frames]

    def flat(self, item: Item, encoder: Encoder, qp: int) -> Coded:
        names = "+".join(sorted(self.room.library.names))
        kept = self.cache / f"{item.key[:16]}-{encoder.name}-{qp}-{hash_of(names)}.npz" if self.cache else None
        if kept is not None and kept.exists():
            return unpacked(kept)
        plan = EncodePlan(tuple(Segment(s.start, s.stop, qp) for s in item.segments))
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "flat.mp4"
            timing = Timing(item.clip.time_base, item.clip.pts)
            bits = encode(plan, item.clip, encoder, output, timing, options_for(item.clip)).bits
            coded = Coded(bits, self.look(decoded_like(item.clip, output, item.frames)))
        if kept is not None:
            packed(coded, kept)
        return coded

    def per_object(self, item: Item, encoder: Encoder, settings: JRDSettings, source: LevelSource) -> Coded:
        capabilities = encoder.capabilities()
        block_size = capabilities.block_size or BLOCK_SIZE
        found = clip_levels(item.clip, source, block_size, settings.looks_per_second)
        background = background_qp_of(settings.background_qp, capabilities)
        limits = capabilities.qp_min, capabilities.qp_max
        wanted = qp_map_of(found.levels, item.clip.width, item.clip.height, block_size, background, limits)
        if settings.pooling is not None:
            wanted = pooled(wanted, item.segments, encoder, background, guessed=settings.guessed_in(item.clip))
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "objects.mp4"
            result, _ = code_map(item.clip, wanted.map, item.segments, encoder, output, options_for(item.clip))
            looks = self.look(decoded_like(item.clip, output, item.frames))
        return Coded(result.bits, looks, found.object_share)


def options_for(clip: Clip) -> EncodeOptions:
    return EncodeOptions(coding="still" if clip.kind == "still" else "inter")


def mean_ap50(items: Sequence[Item], coded: Sequence[Coded], judges: Sequence[str]) -> float:
    """Mean over judges of mAP@0.5 against their own detections on the originals, pooled over all frames."""
    values = []
    for judge in judges:
        pairs = [
            (before[judge], after[judge])
            for item, one in zip(items, coded, strict=True)
            for before, after in zip(item.original, one.looks, strict=True)
            if judge in before and judge in after
        ]
        values.append(pseudo_average_precision([a for a, _ in pairs], [b for _, b in pairs]).ap50)
    return float(np.mean(values))


def compare(
    items: Sequence[Item], flat: Sequence[Sequence[Coded]], coded: Sequence[Coded], judges: Sequence[str]
) -> dict[str, float]:
    """Per-object coding against the flat curve. flat: per QP, per item."""
    curve = np.array([mean_ap50(items, one, judges) for one in flat])
    bits = np.array([float(sum(c.bits for c in one)) for one in flat])
    value, total = mean_ap50(items, coded, judges), float(sum(c.bits for c in coded))
    matched, inside = bits_at(curve, bits, value)
    return {"map50": value, "bits": total, "flat_bits": matched, "saving": 1 - total / matched, "inside": float(inside)}


def ideal_bits(item: Item, layers: SegmentLayers, encoder: Encoder) -> int:
    """Bits of a still whose blocks had their QPs for nothing but what they cost (telescoped over the layers)."""
    pix_fmt = pixel_format(encoder.capabilities())
    (original,) = item.clip.read(0, 1, pix_fmt)
    grey = np.full(len(original) // 2, 512, "<u2").tobytes()
    total = 0
    with tempfile.TemporaryDirectory() as folder, guarded_group() as group:

        def bits(number: int, qp: int) -> int:
            """The picture with all layers beyond `number` grey."""
            hidden = (layers.choice[0] > number).astype(np.uint8)
            frame = composite(original, [grey], hidden, item.clip.format, pix_fmt)
            place = Path(folder) / f"{number}-{qp}"
            return encode_segment(
                Segment(0, 1, qp), OneFrame(item.clip, frame), encoder, place, options_for(item.clip), group
            ).bits

        last = len(layers.qps) - 1
        total = bits(last, layers.qps[last])
        for k in range(last):
            total += bits(k, layers.qps[k]) - bits(k, layers.qps[k + 1])
    return total


@dataclass(frozen=True)
class OneFrame:
    """A `FrameSource` of one frame."""

    like: Clip
    frame: bytes
    n_frames: int = 1

    @property
    def format(self):  # type: ignore[no-untyped-def]
        return self.like.format

    def read(self, start: int, stop: int, pix_fmt: str) -> Iterator[bytes]:
        for _ in range(start, stop):
            yield self.frame


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def packed(coded: Coded, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{at}/{name}/{field}": getattr(result, field)
        for at, look in enumerate(coded.looks)
        for name, result in look.items()
        for field in ("boxes", "scores", "classes")
    }
    np.savez_compressed(path, bits=np.array(coded.bits), frames=np.array(len(coded.looks)), **arrays)


def unpacked(path: Path) -> Coded:
    with np.load(path) as kept:
        looks: Looks = [{} for _ in range(int(kept["frames"]))]
        for name in {key.rsplit("/", 1)[0] for key in kept if "/" in key}:
            at, judge = name.split("/", 1)
            looks[int(at)][judge] = Detections(*(kept[f"{name}/{f}"] for f in ("boxes", "scores", "classes")))
        return Coded(int(kept["bits"]), looks)


def pictures_of(folder: Path, split: str, count: int, least_boxes: int, room: MachineRoom) -> Iterator[Path]:
    """Pictures of a split, in an order that does not depend on their names, on which all judges together see
    enough objects."""
    keyed = sorted((hashlib.sha256(p.read_bytes()).hexdigest(), p) for p in folder.rglob("*") if p.is_file())
    for key, path in keyed:
        if count <= 0 or split_of(key) != split:
            continue
        try:
            (rgb,) = open_clip(path).read_rgb()
        except VcmError:
            continue
        results = room.look(rgb).results.values()
        if sum(len(r.above(0.3)) for r in results if isinstance(r, Detections)) >= least_boxes:
            count -= 1
            yield path


def main() -> None:
    arguments = read_arguments()
    judges = tuple(arguments.judges.split(","))
    judge_library = LibraryRef(arguments.machines, judges, "detection", min_confidence=0.05)
    choosers = LibraryRef(arguments.machines, tuple(arguments.choosers.split(",")), "detection", min_confidence=0.2)
    base = JRDSettings(
        machines=None if arguments.dense else choosers,
        detector=arguments.detector or None,
        background_qp=arguments.background_qp,
        caution=arguments.caution,
        pooling=Pooling(arguments.trust, arguments.price, arguments.doubt),
    )
    results = []
    with MachineRoom(judge_library.open()) as room:
        judging = Judging(room, arguments.cache)
        paths = list(pictures_of(arguments.images, arguments.split, arguments.pictures, len(judges), room))
        for kind, chosen in (("pictures", paths), ("clips", arguments.clips)):
            items = [judging.item(path) for path in chosen]
            for codec in arguments.codecs.split(",") if items else ():
                results += bench(judging, items, get_encoder(codec), base, arguments, judges, kind)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def bench(
    judging: Judging,
    items: Sequence[Item],
    encoder: Encoder,
    base: JRDSettings,
    arguments: argparse.Namespace,
    judges: Sequence[str],
    kind: str,
) -> list[dict[str, object]]:
    """All ratios with one encoder; prints as it goes."""
    started = time.monotonic()
    flat = [[judging.flat(item, encoder, qp) for item in items] for qp in FLAT_QPS]
    for qp, one in zip(FLAT_QPS, flat, strict=True):
        bits = sum(c.bits for c in one)
        print(f"{kind} {encoder.name} flat QP {qp}: {bits:10,} bits, mAP@0.5 {mean_ap50(items, one, judges):.4f}")
    rows: list[dict[str, object]] = []
    for ratio in arguments.ratios:
        settings = replace(base, ratio=ratio)
        with opened_levels(settings, items[0].clip, encoder.codec) as source:
            coded = [judging.per_object(item, encoder, settings, source) for item in items]
            row: dict[str, object] = {"kind": kind, "encoder": encoder.name, "ratio": ratio, "items": len(items)}
            row |= compare(items, flat, coded, judges)
            row["object_share"] = float(np.mean([one.share for one in coded]))
            if arguments.ideal and method_of(encoder) == "pre-coding" and kind == "pictures":
                row["above_ideal"] = above_ideal(items, encoder, settings, source, coded)
        rows.append(row)
        print(f"{kind} {encoder.name} JRD {ratio}: {json.dumps({k: v for k, v in row.items() if k != 'kind'})}")
    print(f"{time.monotonic() - started:.0f} s")
    return rows


def above_ideal(
    items: Sequence[Item], encoder: Encoder, settings: JRDSettings, source: LevelSource, coded: Sequence[Coded]
) -> float:
    """Bits of the pre-coded pictures beyond the ideal, as a share of it."""
    capabilities = encoder.capabilities()
    limits = capabilities.qp_min, capabilities.qp_max
    total = 0
    for item in items:
        found = clip_levels(item.clip, source, BLOCK_SIZE, 1.0)
        background = background_qp_of(settings.background_qp, capabilities)
        planned = qp_map_of(found.levels, item.clip.width, item.clip.height, BLOCK_SIZE, background, limits)
        even = evened(planned.map, item.segments, background)
        total += ideal_bits(item, segment_layers(range(1), even.qp), encoder)
    return sum(one.bits for one in coded) / total - 1


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--machines", type=Path, required=True, help="folder of the machine library")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--clips", type=Path, nargs="*", default=[])
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--codecs", default="hevc-kvazaar,vvc")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.75, 0.9])
    parser.add_argument("--choosers", default=",".join(CHOOSERS), help="detectors at hand")
    parser.add_argument("--detector", default="", help="whose boxes are the objects  [default: those of all choosers]")
    parser.add_argument("--judges", default=",".join(JUDGES))
    parser.add_argument("--background-qp", type=int)
    parser.add_argument("--caution", type=float, default=0.25)
    parser.add_argument("--dense", action="store_true", help="no detector at hand: the dense predictor's objects")
    for name, value in asdict(DEFAULT_POOLING).items():
        parser.add_argument(f"--{name}", type=float, default=value, help="see `jrd.levels.Pooling`")
    parser.add_argument("--ideal", action="store_true", help="measure the distance from an ideal coding, too")
    parser.add_argument("--cache", type=Path, help="folder for judged flat codings")
    parser.add_argument("--out", type=Path, help="JSON of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
