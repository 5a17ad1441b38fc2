"""What a method is: something that chooses one coding per unit, and says what it had to code to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.bench.table import Indices, Table
from vcm_ratecontrol.bench.view import View

Flags = npt.NDArray[np.bool_]

MACHINES = "machines"
NOTHING = ""


@dataclass(frozen=True, eq=False)
class Choice:
    """columns: intp [U], the coding of each unit. probed: bool [U, C], the codings that the method made to find it; the
    chosen one counts besides, once. seconds: over all units, of what it did besides coding and judging probes."""

    columns: Indices
    probed: Flags
    seconds: float = 0.0

    @property
    def encodes(self) -> Flags:
        """bool [U, C], all that is coded: probes and the final."""
        made = self.probed.copy()
        made[np.arange(len(self.columns)), self.columns] = True
        return made


class Method(Protocol):
    """A plug-in.

    name: what users type, and the key in results. label: for people. asks: who looks at each of its probes: MACHINES
    (the choosing ones), a metric of `quality.METRICS`, or NOTHING.
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def asks(self) -> str: ...

    def settings(self, view: View, targets: Sequence[float]) -> Sequence[float]:
        """What it can be asked for, in the order of rising quality: target SMRs, thresholds of a metric, ratios."""
        ...

    def choose(self, view: View, setting: float) -> Choice:
        """One coding per unit. Pure: the same view and setting give the same choice."""
        ...


def seconds_of(table: Table, choice: Choice, method: Method, choosing: Sequence[str]) -> float:
    """Seconds of one core over all units: coding what it codes, decoding and judging its probes, thinking."""
    made = choice.encodes.sum(axis=1)
    probes = choice.probed.sum(axis=1)
    judged = np.zeros(len(made))
    if method.asks == MACHINES:
        # Results on the original are needed once beside those on the probes.
        judged = (probes + (probes > 0)) * sum(table.machine_seconds[name] for name in choosing)
    elif method.asks:
        judged = probes * table.quality_seconds[method.asks]
    total = made * table.encode_seconds + probes * table.decode_seconds + judged
    return float(total.sum()) + choice.seconds
