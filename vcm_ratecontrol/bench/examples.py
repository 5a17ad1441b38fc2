"""Example pictures for the report: the original, the anchor, and what a method made of it, side by side."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from codec_wrappers.still import StillSource, decode_still, encode_still
from vcm_ratecontrol.bench.items import Unit
from vcm_ratecontrol.bench.run import CodecRun, MethodRun, Point
from vcm_ratecontrol.bench.savings import item_savings

# Side of the square that is shown of each picture, samples.
CROP = 288
# Whose choices are shown: the first of these that was run and has an operating point near the target.
PREFERRED = ("smr-pooled", "smr-pooled-0", "smr-measured", "pooled-other-machines", "oracle-pooled")


@dataclass(frozen=True)
class View:
    """One version of a picture. uri: PNG; caption: what it is; alt: in words."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Example:
    name: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class Examples:
    """method: whose choices these are; target: the judged SMR it is compared at."""

    method: str
    target: float
    examples: tuple[Example, ...]


def make_examples(run: CodecRun, targets: tuple[float, ...], max_side: int, count: int) -> Examples | None:
    """Stills spread from the one on which the method saves most to the one that pays most; None where there is none."""
    stills = [at for at, item in enumerate(run.table.items) if item.kind == "still"]
    found = _shown(run, targets)
    if not count or not stills or found is None:
        return None
    method, target, point = found
    saved = item_savings(run.flat, point.scores)
    order = sorted(stills, key=lambda item: -saved[item])
    chosen = [order[round(k * (len(order) - 1) / max(1, count - 1))] for k in range(min(count, len(order)))]
    flat = min(len(run.table.levels) - 1, round(run.flat.level_like(point.scores.smr)))
    units = {unit.item: (at, unit) for at, unit in enumerate(run.table.units)}
    examples = []
    for item in dict.fromkeys(chosen):
        at, unit = units[item]
        column = int(point.scores.columns[at])
        if column < len(run.table.levels):
            examples.append(_example(run, unit, at, flat, column, point, max_side))
    return Examples(method.method.name, target, tuple(examples))


def _shown(run: CodecRun, targets: tuple[float, ...]) -> tuple[MethodRun, float, Point] | None:
    by_name = {method.method.name: method for method in run.methods}
    for name in PREFERRED:
        for target in reversed(targets):
            if name in by_name and (near := by_name[name].near[target]) is not None and near.matched is not None:
                return by_name[name], target, by_name[name].points[near.point]
    return None


def _example(run: CodecRun, unit: Unit, at: int, flat: int, column: int, point: Point, max_side: int) -> Example:
    item = run.table.items[unit.item]
    (rgb,) = unit.originals(max_side)
    source = StillSource(rgb)
    part = _busiest(rgb)
    views = [View(_png(rgb[part]), "original", f"{item.name}, part of the original")]
    for what, level in (("one QP for all", flat), ("chosen", column)):
        qp = run.table.levels[level]
        decoded = decode_still(encode_still(source, qp, run.encoder, run.preset))
        bits = run.table.bits[at, level] / item.pixels
        smr = run.flat.scores[level].item_smr[unit.item]
        caption = f"{what}: QP {qp}, {bits:.3f} bpp, judges' SMR {smr:.2f}"
        views.append(View(_png(decoded[part]), caption, f"{item.name}, the same part coded at QP {qp}"))
    return Example(item.name, tuple(views))


def _busiest(rgb: np.ndarray) -> tuple[slice, slice]:
    """Where the picture has most detail: the square of side CROP (or less) with the largest differences."""
    from scipy.ndimage import uniform_filter

    height, width = rgb.shape[:2]
    luma = rgb.astype(np.float32).mean(axis=2)
    detail = np.abs(np.diff(luma, axis=0, append=luma[-1:])) + np.abs(np.diff(luma, axis=1, append=luma[:, -1:]))
    side = min(CROP, height, width)
    mean = uniform_filter(detail, side, mode="constant")
    half = side // 2
    inner = mean[half : height - side + half + 1, half : width - side + half + 1]
    top, left = np.unravel_index(int(inner.argmax()), inner.shape)
    return slice(int(top), int(top) + side), slice(int(left), int(left) + side)


def _png(rgb: np.ndarray) -> str:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
