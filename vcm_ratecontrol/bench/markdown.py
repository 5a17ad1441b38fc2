"""The tables of README, from a results.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vcm_ratecontrol.bench.object_maps import LABELS
from vcm_ratecontrol.bench.results import Document


def markdown_tables(found: Document) -> str:
    """Per codec bits saved against flat QP at equal judged SMR, with intervals, and what it took; then per object."""
    return "\n\n".join(_codec_table(found, codec) for codec in found["codecs"])


def _codec_table(found: Document, codec: Document) -> str:
    targets = [f"{target:g}" for target in found["settings"]["targets"]]
    machines = found["machines"]
    judges = "the choosing machines" if machines["known"] else f"{len(machines['judging'])} others"
    caption = (
        f"{codec['encoder']}, preset {codec['preset']}: {_items(codec)}, {len(codec['levels'])} levels; "
        f"{len(machines['choosing'])} machines choose, judged by {judges}. Bits saved against the best single QP "
        "with the same judged mean SMR (95 % interval over items)."
    )
    methods = [method for method in codec["methods"] if method["name"] != "flat"]
    levels = [method for method in methods if method["name"] not in LABELS]
    head = ["method", *(f"at SMR {target}" for target in targets), "BD-rate", "encodes", "seconds"]
    parts = [caption, _table(head, [_row(method, targets) for method in levels])] if levels else []
    objects = [method for method in methods if method["name"] in LABELS]
    if objects:
        parts.append(
            f"{codec['encoder']}, per object: bits saved against the best single QP with the same mAP@0.5 (the judging "
            "detectors' own results on the originals being the truth), per share of machines asked for."
        )
        shares = [f"{point['setting']:g}" for point in objects[0]["points"]]
        head = ["method", *(f"share {share}" for share in shares)]
        parts.append(_table(head, [_object_row(method) for method in objects]))
    return "\n\n".join(parts)


def _object_row(method: Document) -> list[str]:
    cells = []
    for point in method["points"]:
        value, saving = point["map50_pseudo"], _percent(point["map50_saving"])
        cells.append("–" if value is None else f"{saving} at mAP {value:.3f}")
    return [f"`{method['name']}`: {method['label']}", *cells]


def _items(codec: Document) -> str:
    kinds = [item["kind"] for item in codec["items"]]
    parts = [
        f"{kinds.count(kind)} {name}{'s' * (kinds.count(kind) > 1)}"
        for kind, name in (("still", "picture"), ("clip", "clip"))
    ]
    return " and ".join(part for part in parts if not part.startswith("0 "))


def _row(method: Document, targets: Sequence[str]) -> list[str]:
    near = [method["near"].get(target) for target in targets]
    known = [one for one in near if one is not None]
    bd = method["bd_rate"]
    last = known[-1] if known else None
    return [
        f"`{method['name']}`: {method['label']}",
        *(_saving(one) for one in near),
        "" if bd["mean"] is None else f"{_percent(bd['mean'])}",
        "" if last is None else f"{last['encodes']:.1f}",
        "" if last is None else f"{last['seconds']:.1f}",
    ]


def _saving(one: Any) -> str:
    if one is None or one["saving"] is None:
        return "–"
    interval = "" if one["low"] is None else f" ({one['low']:.0f} to {one['high']:.0f})"
    return f"{_percent(one['saving'])}{interval}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
