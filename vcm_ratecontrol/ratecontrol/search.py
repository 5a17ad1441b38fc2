"""The measured-mode search: the highest QP whose SMR meets a target, in few probes.

A planner only: it says which QP to measure next and is told the result; it never runs an encoder. (Encoding,
decoding and asking the machines is the caller's; so is caching.)

**Which QP is accepted.** SMR falls with QP, but not strictly: a machine that has lost an object at QP 36 may find it
again at 38. A QP is accepted when

1. it was itself measured and its SMR meets the target, and
2. the success is *lasting*: every lower QP that was measured meets the target as well.

Of those the highest wins. So a lucky spike above a measured failure is not trusted: what holds at QP 40 but not at
QP 37 holds by chance, and another frame or machine would fall into the gap. Since measuring everything is not
affordable, 'lasting' is about measured QPs only; to find spikes at all, a spare probe goes to the QP just below the
accepted one (`confirm`). If that fails, the search goes on below it.

When no measured QP is lasting but some meet the target (there is a spike only), the lowest of those is returned: it
does meet the target, as was measured, and `lasting` is False. When none meets the target, the best effort is returned:
the measured QP of the highest SMR, of equals the highest QP, with `reached` False.

**How many probes.** There are hi - lo + 2 answers (each QP, and none). A probe at q leaves those above or those
below, and is only placed where both sides can still be told apart by the probes left: within that window the placing
is free. 64 levels have 65 answers and 7 probes tell 128 apart, so the first probe may lie anywhere, and on every curve
that falls monotonely 7 probes give the exact answer, however wrong the guesses were. On curves like the pilot's, 4 to 5
close the bracket and one more confirms. With fewer probes allowed than that (`max_probes` below 7, or spent on a
spike) the answer is the best one measured, and `exact` is False.

**Where a probe is placed.** Between a success and a failure: where the margins of the machines cross. An SMR of ten
machines has eleven values; the margin by which the decisive machine was satisfied (the one whose loss would
miss the target) is continuous and has the right sign, so linear interpolation on it finds the crossing. With
successes or failures only: where the prior curve, shifted to what was measured, crosses the target, and a little
beyond, since a bracket is worth more than another step towards it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec_wrappers.errors import InputError
from vcm_ratecontrol.ratecontrol.shift import shift_posterior

# SMR is a ratio of small integers: 9 / 10 must meet a target of 0.9 whatever the rounding.
_TOLERANCE = 1e-9
# How far beyond the expected crossing to aim, in standard deviations, while only successes or only failures are
# known. Simulated on shifted pilot curves: 0 takes 5.3 probes to the exact answer, 1 to 2 take 4.5.
_BEYOND = 1.5
# How far below it the last probe goes when nothing has met the target yet: a file that misses it is worth little.
_SURE = 2.0


@dataclass(frozen=True)
class SmrSample:
    """What the machines said at one QP.

    smr: share of satisfied machines, 0..1 (clip: mean over frames). margins: one value for each machine (and
    frame) that counted, positive when satisfied and negative when not, larger when more clearly so: detection
    score minus its threshold; probability of the original's label minus the highest other. May be empty.
    """

    smr: float
    margins: tuple[float, ...] = ()


@dataclass(frozen=True)
class Probe:
    """One measured QP: its SMR (0..1) and whether that meets the target."""

    qp: int
    smr: float
    met: bool


@dataclass(frozen=True)
class SearchResult:
    """qp, smr: the QP to encode with and the SMR measured there. reached: it meets the target. lasting: so do all lower
    QPs that were measured. exact: the next higher QP was measured and fails, or there is none.
    probes: in the order in which they were made."""

    qp: int
    smr: float
    reached: bool
    lasting: bool
    exact: bool
    probes: tuple[Probe, ...]


class QpSearch:
    """Search of one item (picture or segment): call `next_probe`, measure there, `tell`, until it gives None.

    target: SMR 0..1. lo, hi: the QPs allowed, both included. max_probes >= 1. prior: mean SMR at every QP
    lo..hi, float [hi - lo + 1], falling; None bisects until both a success and a failure are known. confirm:
    how many QPs just below the accepted one spare probes may check. tolerance >= 1: stop when a failure is
    this near above the accepted QP; 1 is the exact answer. machines: how many will vote, which tells where a
    mean curve stands when half of the pictures meet the target. Raises InputError for values out of range.
    """

    def __init__(
        self,
        target: float,
        lo: int = 0,
        hi: int = 63,
        *,
        max_probes: int = 7,
        prior: ArrayLike | None = None,
        confirm: int = 1,
        tolerance: int = 1,
        machines: int = 10,
    ) -> None:
        if not 0.0 <= target <= 1.0:
            raise InputError(f"target SMR {target} is outside 0..1")
        if hi < lo:
            raise InputError(f"QP range {lo}..{hi} is empty")
        if max_probes < 1 or tolerance < 1 or machines < 1 or confirm < 0:
            raise InputError("QP search: max_probes, tolerance and machines must be at least 1, confirm at least 0")
        self.target, self.lo, self.hi = target, lo, hi
        self.max_probes, self.confirm = max_probes, confirm
        self.tolerance, self.machines = tolerance, machines
        self._levels = np.arange(lo, hi + 1, dtype=np.float64)
        self._prior = None if prior is None else _checked_prior(prior, self._levels)
        self._samples: dict[int, SmrSample] = {}

    def tell(self, qp: int, sample: SmrSample) -> None:
        """Record what was measured at `qp`: the QP asked for, or any other of the range that is known already.

        Raises InputError for a QP out of range or an SMR that is not in 0..1 (an item without valid machines
        has no SMR: leave it out before searching).
        """
        if not self.lo <= qp <= self.hi:
            raise InputError(f"probe at QP {qp} is outside {self.lo}..{self.hi}")
        if not 0.0 <= sample.smr <= 1.0:
            raise InputError(f"SMR {sample.smr} measured at QP {qp} is outside 0..1")
        self._samples[qp] = sample

    def next_probe(self) -> int | None:
        """The QP to measure next, or None when the search is over. Asking twice gives the same answer."""
        left = self.max_probes - len(self._samples)
        if left <= 0:
            return None
        success, failure = self._bracket()
        if failure - success > (self.tolerance if success >= self.lo else 1):
            return self._place(success, failure, left)
        below = range(success - 1, max(self.lo, success - self.confirm) - 1, -1)
        return next((qp for qp in below if qp not in self._samples), None)

    def best(self) -> SearchResult:
        """The result so far, by the rule of this module. Raises InputError before the first `tell`."""
        if not self._samples:
            raise InputError("the QP search has no measurement yet; call tell first")
        success, failure = self._bracket()
        met = [qp for qp, sample in self._samples.items() if self._meets(sample)]
        if success >= self.lo:
            qp = success
        elif met:
            qp = min(met)
        else:
            qp = max(self._samples, key=lambda qp: (self._samples[qp].smr, qp))
        return SearchResult(
            qp=qp,
            smr=self._samples[qp].smr,
            reached=bool(met),
            lasting=success >= self.lo,
            exact=failure - success == 1 and (bool(met) == (success >= self.lo)),
            probes=tuple(Probe(qp, s.smr, self._meets(s)) for qp, s in self._samples.items()),
        )

    def _meets(self, sample: SmrSample) -> bool:
        return sample.smr >= self.target - _TOLERANCE

    def _bracket(self) -> tuple[int, int]:
        """The highest lasting success (lo - 1: none) and the lowest failure (hi + 1: none)."""
        failure = min((q for q, s in self._samples.items() if not self._meets(s)), default=self.hi + 1)
        success = max((q for q in self._samples if q < failure), default=self.lo - 1)
        return success, failure

    def _place(self, success: int, failure: int, left: int) -> int:
        """A QP strictly inside the bracket: near the expected crossing, where the answer stays findable."""
        reach = 2 ** (left - 1)
        first, last = max(success + 1, failure - reach), min(failure - 1, success + reach)
        crossing, spread = self._crossing(success, failure)
        nothing_met = success < self.lo
        if first > last:
            # Too few probes to find the exact answer: the last one must give something to encode with.
            first, last = success + 1, failure - 1
            if left == 1 and nothing_met:
                return min(max(self._sure_aim(crossing, spread, failure), first), last)
            if left == 1:
                return _best_bet(crossing, spread, success, failure)
        if self._samples and self._prior is not None:
            if nothing_met:
                crossing -= _BEYOND * spread
            elif failure > self.hi:
                crossing += _BEYOND * spread
        placed: int = min(max(math.floor(crossing), first), last)
        return placed

    def _sure_aim(self, crossing: float, spread: float, failure: int) -> int:
        aim = crossing - _SURE * spread
        if len(self._samples) > 1:
            # Failing twice where the model expected success: it is wrong about this picture, so halve.
            aim = min(aim, (self.lo + failure) / 2)
        return math.floor(aim)

    def _crossing(self, success: int, failure: int) -> tuple[float, float]:
        """Where SMR is expected to cross the target, in QP, and the standard deviation of that."""
        if success >= self.lo and failure <= self.hi:
            above, under = self._excesses(self._samples[success], self._samples[failure])
            crossing = success + (failure - success) * above / (above - under)
            return crossing, (failure - success) / 4
        if self._prior is None:
            return (success + failure) / 2, (failure - success) / 4
        # k of N machines are satisfied on half of the pictures where each is with the median of Beta(k, N - k + 1),
        # which is below k / N for high targets (and below 1 for k = N).
        needed = max(1, math.ceil(self.target * self.machines - _TOLERANCE))
        aim = min((needed - 1 / 3) / (self.machines + 1 / 3), float(self._prior[0]))
        unshifted = float(self._levels[self._prior >= aim - _TOLERANCE][-1])
        qps = list(self._samples)
        shifts, chances = shift_posterior(self._prior, self._levels, qps, [self._samples[qp].smr for qp in qps])
        crossings = np.clip(unshifted + shifts, success, failure - 1)
        crossing = float(chances @ crossings)
        spread = math.sqrt(float(chances @ (crossings - crossing) ** 2))
        return crossing, spread

    def _excesses(self, success: SmrSample, failure: SmrSample) -> tuple[float, float]:
        """By how much the target is exceeded (> 0) and missed (< 0): by the margins of the decisive machine."""
        above, under = self._decisive_margin(success), self._decisive_margin(failure)
        if above is not None and under is not None and above > 0 > under:
            return above, under
        # No margins, or (a clip's mean over frames) margins that do not tell the same as the SMR.
        half_machine = 0.5 / self.machines
        return (
            max(success.smr - self.target + half_machine, half_machine),
            min(failure.smr - self.target + half_machine, -half_machine),
        )

    def _decisive_margin(self, sample: SmrSample) -> float | None:
        needed = math.ceil(self.target * len(sample.margins) - _TOLERANCE)
        return sorted(sample.margins, reverse=True)[needed - 1] if needed >= 1 else None


def _checked_prior(prior: ArrayLike, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    curve = np.asarray(prior, np.float64)
    if curve.shape != levels.shape or not np.isfinite(curve).all():
        raise InputError(f"prior SMR curve has shape {curve.shape}, needs {levels.shape}: one per QP of the range")
    return np.minimum.accumulate(curve)


def _best_bet(crossing: float, spread: float, success: int, failure: int) -> int:
    """The last probe: the QP whose chance of success times gain is highest, the crossing being normal."""
    spread = max(spread, 0.5)

    def worth(qp: int) -> float:
        chance = 0.5 * math.erfc((qp - crossing) / (spread * math.sqrt(2)))
        return chance * (qp - success)

    return max(range(success + 1, failure), key=worth)
