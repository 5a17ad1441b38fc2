"""From what a detector says of an object on the original to the level at which it may be coded.

A quantile regression, fitted on the satisfaction table by `python -m vcm_ratecontrol.jrd.fit_levels`: the level is
the q-quantile of the JRD at ratio r that objects of this confidence and size have for machines that were not asked.
Where several machines were asked, their mean confidence (0 for one that does not see the object) tells more than
the confidence of one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd.costs import TYPICAL_COST
from vcm_ratecontrol.jrd_rules import N_LEVELS

Floats = npt.NDArray[np.float64]

TABLE = Path(__file__).with_name("levels.json")
DEFAULT_CAUTION = 0.25
"""Share of the objects that may turn out more fragile than the level given to them."""


@dataclass(frozen=True)
class Pooling:
    """How levels are found together for the objects of a job (measured in docs/jrd.md).

    trust: a prediction is as uncertain as objects differ; of the distance from a typical object so much is followed.
    price: levels by which an object is coarser for each doubling of its bits (`costs.object_costs`) per worth: the
    Lagrangian of bits against objects kept, where both survival and bits are exponentials of the level.
    doubt: an object is worth the share of machines that have it to lose, which their mean confidence tells, plus this,
    as a machine that was not asked may see it yet.
    """

    trust: float = 0.25
    price: float = 2.0
    doubt: float = 0.15


DEFAULT_POOLING = Pooling()
TYPICAL_CONFIDENCE = {False: 0.55, True: 0.3}  # of one machine, mean over several; means of the training objects
TYPICAL_SIZE = 0.3

_SIZE_FLOOR = 1 / 64  # smaller objects are no more fragile than these, for want of examples


@dataclass(frozen=True)
class LevelRule:
    """Confidence and size -> level. ratio: share of the machines; caution: quantile, both 0..1.

    alone, together: coefficients of `features`, float64 [5], for one machine's confidence and for the mean over
    several. pooling: the target is met in the mean over objects, at fewer bits; None: by each for itself.
    """

    ratio: float
    caution: float
    alone: Floats
    together: Floats
    pooling: Pooling | None = DEFAULT_POOLING

    def own_levels(self, confidences: npt.ArrayLike, sizes: npt.ArrayLike, *, several: bool = False) -> Floats:
        """Levels float64 [N], 0..63, of each object for itself. confidences: [N], 0..1. sizes: [N], sqrt(box area /
        picture area), 0..1.

        several: the confidences are means over at least three machines.
        """
        found: Floats = features(confidences, sizes) @ (self.together if several else self.alone)
        return np.clip(found, 0.0, N_LEVELS - 1.0)

    def job_levels(self, own: Floats, costs: Floats, confidences: Floats, *, several: bool = False) -> Floats:
        """Levels float64 [N], 0..63, at which the objects of a job meet the target in the mean at few bits; not pooled:
        their own. own: levels; costs: relative bits, see `costs.object_costs`; confidences: 0..1, or
        the probability that there is an object; all of one shape."""
        if self.pooling is None:
            return own
        usual = TYPICAL_CONFIDENCE[several]
        typical = float(self.own_levels(usual, TYPICAL_SIZE, several=several))
        worth = (confidences + self.pooling.doubt) / (usual + self.pooling.doubt)
        followed = self.pooling.trust * (own - typical)
        found: Floats = typical + followed + self.pooling.price * np.log2(costs / TYPICAL_COST / worth)
        return np.clip(found, 0.0, N_LEVELS - 1.0)


def level_rule(
    codec: str,
    ratio: float,
    caution: float = DEFAULT_CAUTION,
    *,
    pooling: Pooling | None = DEFAULT_POOLING,
    table: Path = TABLE,
) -> LevelRule:
    """The rule for a codec ('vvc', 'hevc'; others take VVC's), between the fitted ratios and quantiles by
    interpolation; beyond them the outermost.

    Raises InputError for a ratio or caution outside 0..1.
    """
    for name, value in (("ratio", ratio), ("caution", caution)):
        if not 0.0 < value <= 1.0:
            raise InputError(f"JRD {name} {value}: must be above 0 and at most 1")
    fitted = _table(table)
    codecs = fitted["codecs"]
    known = codecs.get(codec, codecs["vvc"])
    chosen = [_between(np.array(known[kind]), fitted, ratio, caution) for kind in ("alone", "together")]
    return LevelRule(ratio, caution, chosen[0], chosen[1], pooling)


def features(confidences: npt.ArrayLike, sizes: npt.ArrayLike) -> Floats:
    """float64 [N, 5]: 1, confidence, its square, log2 of the size, its square. Middling sizes are the most robust."""
    confidence = np.asarray(confidences, np.float64)
    size = np.log2(np.clip(np.asarray(sizes, np.float64), _SIZE_FLOOR, 1.0))
    return np.stack([np.ones_like(confidence), confidence, confidence**2, size, size**2], axis=-1)


def _between(values: Floats, fitted: dict[str, Any], ratio: float, caution: float) -> Floats:
    """values [ratios, quantiles, 5] -> [5]."""
    by_ratio = _interpolated(values, fitted["ratios"], ratio)
    return _interpolated(by_ratio, fitted["quantiles"], caution)


def _interpolated(values: Floats, at: list[float], where: float) -> Floats:
    flat = values.reshape(len(at), -1)
    columns = [np.interp(where, at, column) for column in flat.T]
    return np.array(columns).reshape(values.shape[1:])


@cache
def _table(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
