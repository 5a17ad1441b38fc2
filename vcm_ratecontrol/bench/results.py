"""A finished benchmark as plain values: results.json, results.csv. README's table is made of what stands here."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from codec_wrappers import __version__
from vcm_ratecontrol.bench.evaluate import Scores
from vcm_ratecontrol.bench.run import BenchRun, CodecRun, MethodRun, Point
from vcm_ratecontrol.bench.savings import Saving, item_savings

SCHEMA = 1

Document = dict[str, Any]


def document(run: BenchRun) -> Document:
    """Everything that was found, as JSON can hold it: numbers that are not finite are null."""
    settings = run.settings
    found = {
        "schema": SCHEMA,
        "version": __version__,
        "settings": {
            "methods": settings.methods,
            "targets": settings.targets,
            "task": settings.task,
            "thresholds": asdict(settings.thresholds),
            **asdict(settings.selection),
            "predictor": settings.predictor,
            "probes": settings.probes,
            "seed": settings.seed,
            "resamples": settings.n_resamples,
            "annotations": [path.name for path in settings.annotations],
        },
        "machines": {
            "choosing": run.sets.choosing,
            "judging": run.sets.judging,
            "shared": run.shared,
            "known": run.sets.known,
            "tasks": run.machine_tasks,
        },
        "warnings": run.warnings,
        "left_out": [asdict(item) for item in run.left_out],
        "codecs": [_codec(one) for one in run.codecs],
        "seconds": run.seconds,
    }
    cleaned: Document = finite(found)
    return cleaned


def finite(value: Any) -> Any:
    """The value with arrays as lists and what is no number as None, all the way down."""
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, np.generic):
        return finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_text(found: Document) -> str:
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _codec(run: CodecRun) -> Document:
    table = run.table
    return {
        "codec": run.codec,
        "encoder": run.encoder.name,
        "encoder_version": run.version,
        "preset": run.preset,
        "levels": table.levels,
        "items": [
            {
                "name": item.name,
                "kind": item.kind,
                "sha256": item.content,
                "width": item.width,
                "height": item.height,
                "frames": item.n_frames,
                "units": sum(unit.item == at for unit in table.units),
            }
            for at, item in enumerate(table.items)
        ],
        "left_out": [asdict(item) for item in run.left_out],
        "unavailable": run.unavailable,
        "measured": run.measured,
        "methods": [_method(run, one) for one in run.methods],
    }


def _method(run: CodecRun, method: MethodRun) -> Document:
    return {
        "name": method.method.name,
        "label": method.method.label,
        "points": [_point(run, method, at, point) for at, point in enumerate(method.points)],
        "near": {f"{target:g}": _saving(run, method, saving) for target, saving in method.near.items()},
        "asked": {f"{target:g}": _saving(run, method, saving) for target, saving in method.asked.items()},
        "bd_rate": _bd_rate(method),
    }


def _point(run: CodecRun, method: MethodRun, at: int, point: Point) -> Document:
    return {
        "setting": point.setting,
        **_scores(point.scores),
        "map50_saving": method.map_saving[at],
        "encodes": point.encodes,
        "seconds": point.seconds,
        "levels": [
            run.table.levels[column] if column < len(run.table.levels) else None
            for column in point.scores.columns.tolist()
        ],
    }


def _scores(scores: Scores) -> Document:
    pseudo, human = scores.pseudo or (None, None), scores.human or (None, None)
    return {
        "smr": scores.smr,
        "smr_classification": scores.classification,
        "smr_detection": scores.detection,
        "bits": scores.bits,
        "bpp": scores.bpp,
        "kbps": scores.kbps,
        "top1_agreement": scores.top1,
        "map50_pseudo": pseudo[0],
        "map_pseudo": pseudo[1],
        "map50_human": human[0],
        "map_human": human[1],
        "vmaf": scores.quality.get("vmaf"),
        "psnr_db": scores.quality.get("psnr"),
        "ssim": scores.quality.get("ssim"),
    }


def _saving(run: CodecRun, method: MethodRun, saving: Saving | None) -> Document | None:
    if saving is None:
        return None
    point = method.points[saving.point]
    found: Document = {
        "point": saving.point,
        "setting": point.setting,
        "smr": point.scores.smr if saving.matched is None else saving.matched.mean_smr,
        "point_smr": point.scores.smr,
        "encodes": point.encodes,
        "seconds": point.seconds,
        "saving": None,
        "low": None,
        "high": None,
        "error": saving.error,
    }
    if saving.matched is not None:
        interval = saving.matched.saving
        found |= {"saving": interval.estimate, "low": interval.low, "high": interval.high}
        found |= {"clamped_share": saving.matched.clamped_share}
        found |= {"per_item": item_savings(run.flat, point.scores)}
    return found


def _bd_rate(method: MethodRun) -> Document:
    if isinstance(method.bd, str):
        return {"mean": None, "low": None, "high": None, "items": 0, "error": method.bd}
    mean = method.bd.mean
    return {
        "mean": mean.estimate,
        "low": mean.low,
        "high": mean.high,
        "items": mean.n_items,
        "failed": len(method.bd.failed),
        "error": None,
    }


def csv_text(found: Document) -> str:
    """One row per codec, method and operating point; an empty field is no value."""
    rows = [
        {"codec": codec["codec"], "method": method["name"], **{k: v for k, v in point.items() if k != "levels"}}
        for codec in found["codecs"]
        for method in codec["methods"]
        for point in method["points"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
