"""Names of methods to methods, and what they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codec_wrappers.encoder import Encoder
from codec_wrappers.errors import InputError, VcmError
from vcm_ratecontrol.bench.choice import Method
from vcm_ratecontrol.bench.methods import MEASURED, QUALITY, Flat
from vcm_ratecontrol.bench.object_maps import LABELS
from vcm_ratecontrol.bench.predicted import open_predictor, predicted_methods, shuffled_method

if TYPE_CHECKING:
    from vcm_ratecontrol.predictors.inference import SMRCurvePredictor

# Names that stand for several methods.
GROUPS = {
    "smr": ("smr-pooled-0", "smr-each-0", "smr-pooled-bits", "smr-pooled", "smr-each"),
    "oracles": ("oracle-each", "oracle-pooled"),
    "controls": ("smr-shuffled", "random-levels"),
    "objects": tuple(LABELS),
}
DEFAULT = (
    "smr", "smr-measured", "oracle-each", "oracle-pooled", "pooled-blind", "pooled-other-machines", "vmaf", "controls",
)  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """methods: flat first; objects: those per object, which are planned with the pictures. metrics: of picture quality
    that they need. predictor: None when none needs one. unavailable: method -> why."""

    methods: tuple[Method, ...]
    objects: tuple[str, ...]
    metrics: tuple[str, ...]
    predictor: SMRCurvePredictor | None
    unavailable: Mapping[str, str]


def known_methods(probes: int = 1) -> dict[str, Method]:
    """All methods that choose levels, by name."""
    methods: list[Method] = [Flat(), *predicted_methods(probes), shuffled_method(), *MEASURED, *QUALITY]
    return {method.name: method for method in methods}


def choose_methods(names: Sequence[str], encoder: Encoder, probes: int, predictor: str | None) -> Chosen:
    """The methods of names and groups.

    One that cannot run here (no weights) is unavailable, unless it was all that was asked for.
    Raises InputError for an unknown name; MissingToolError, CacheError when nothing but the anchor is left.
    """
    known = known_methods(probes)
    wanted = dict.fromkeys(part for name in names for part in GROUPS.get(name, (name,)))
    if not probes:
        wanted = {name: None for name in wanted if name not in ("smr-pooled", "smr-each")}
    if unknown := [name for name in wanted if name not in known and name not in LABELS]:
        raise InputError(f"--methods: no method '{unknown[0]}'; choose of {', '.join((*known, *LABELS, *GROUPS))}")
    objects = tuple(name for name in LABELS if name in wanted)
    wanted = {name: None for name in wanted if name in known}
    wanted.pop("flat", None)
    predicted = {method.name for method in (*predicted_methods(probes), shuffled_method())} & wanted.keys()
    unavailable: dict[str, str] = {}
    opened: SMRCurvePredictor | None = None
    if predicted:
        try:
            opened = open_predictor(predictor)
        except VcmError as error:
            if predictor is not None or len(predicted) == len(wanted) + len(objects):
                raise
            unavailable = dict.fromkeys(sorted(predicted), str(error))
    methods = [known["flat"], *(known[name] for name in wanted if name not in unavailable)]
    quality = {method.name for method in QUALITY}
    metrics = tuple(method.name for method in methods if method.name in quality)
    return Chosen(tuple(methods), objects, metrics, opened, unavailable)
