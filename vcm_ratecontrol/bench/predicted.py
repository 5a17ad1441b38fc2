"""The predicted methods: curves from a shipped network, which sees the original and what the choosing machines say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from codec_wrappers.errors import CacheError, MissingToolError, VcmError
from vcm_ratecontrol.bench.choice import MACHINES, NOTHING, Choice
from vcm_ratecontrol.bench.methods import Targeted, nothing_probed, permuted, pooled, search_smr
from vcm_ratecontrol.bench.table import Table
from vcm_ratecontrol.bench.view import Prediction, View
from vcm_ratecontrol.ratecontrol.planning import Curves, Pool, Target, plan, with_margin
from vcm_ratecontrol.ratecontrol.predicted import source_of
from vcm_ratecontrol.ratecontrol.rounds import Rounds
from vcm_ratecontrol.scoring import Tasks

if TYPE_CHECKING:
    from vcm_ratecontrol.predictors.inference import SMRCurvePredictor
    from vcm_ratecontrol.predictors.interface import Sample, SMRCurve

# Tried in this order where nobody names a predictor.
PREDICTORS = ("curve_small", "curve_evidence")

COUNTED = 2
"""Probes of vcm-encode by default, where they tell bits alone."""


def open_predictor(name: str | None) -> SMRCurvePredictor:
    """A curve predictor by name or path; None: the first of PREDICTORS whose weights are there.

    Raises MissingToolError, CacheError.
    """
    from vcm_ratecontrol.predictors.inference import SMRCurvePredictor, load_predictor

    error: MissingToolError | None = None
    for candidate in [name] if name is not None else PREDICTORS:
        try:
            predictor = load_predictor(candidate)
        except MissingToolError as missing:
            error = missing
            continue
        if not isinstance(predictor, SMRCurvePredictor):
            raise CacheError(f"--predictor {candidate}: predicts no SMR curves; use {' or '.join(PREDICTORS)}")
        return predictor
    assert error is not None
    raise error


def predict(
    table: Table,
    predictor: SMRCurvePredictor,
    codec: str,
    choosing: Sequence[str],
    task: str,
    max_side: int,
    t_conf: float,
) -> tuple[Prediction, dict[int, str]]:
    """Curves of every unit (the mean over its sampled frames) at the table's levels; item -> why it has none."""
    n_units, levels = len(table.units), np.asarray(table.levels)
    smr, bits = np.zeros((n_units, len(levels))), np.zeros((n_units, len(levels)))
    seconds, deviation = np.zeros(n_units), np.ones(n_units)
    failed: dict[int, str] = {}
    for at, samples in enumerate(_samples(table, choosing, max_side, t_conf, failed)):
        started = time.monotonic()
        unit = table.units[at]
        if not samples:
            continue
        try:
            curves = _curves(predictor, samples, codec, unit.coding, task)
        except VcmError as error:
            failed[unit.item] = f"{unit.work.label}: {error}"
            continue
        item = table.items[unit.item]
        smr[at] = np.mean([curve.smr[levels] for curve in curves], axis=0)
        mean_log = np.mean([curve.log2_bits[levels] for curve in curves], axis=0)
        bits[at] = 2.0**mean_log * item.width * item.height * unit.n_frames
        deviation[at] = max(1.0, float(np.mean([curve.shift_deviation for curve in curves])))
        seconds[at] = time.monotonic() - started
    looks = sum(table.machine_seconds[name] for name in choosing)
    return Prediction(smr, bits, deviation, seconds + looks), failed


def _samples(
    table: Table, choosing: Sequence[str], max_side: int, t_conf: float, failed: dict[int, str]
) -> list[list[Sample]]:
    """Per unit its sampled frames, with what the choosing machines say of each; empty where it cannot be read."""
    from vcm_ratecontrol.predictors.interface import Sample
    from vcm_ratecontrol.training.evidence_table import evidence_table

    sizes = {
        name: (table.items[item].width, table.items[item].height)
        for name, item in zip(table.opinions.pictures, table.frame_item.tolist(), strict=True)
    }
    evidence, _ = evidence_table(table.whole, sizes, t_conf, table.opinions.score)
    machines = table.machines_at(choosing).tolist()
    found: list[list[Sample]] = []
    frame = 0
    for unit in table.units:
        samples: list[Sample] = []
        try:
            pictures = unit.originals(max_side)
        except VcmError as error:
            failed[unit.item] = str(error)
            pictures = []
        for place, rgb in enumerate(pictures):
            at = frame + place
            asked = [m for m in machines if evidence.asked[at, m, 0]]
            samples.append(Sample(rgb, evidence=tuple(evidence.machine_evidence(at, m) for m in asked)))
        frame += len(unit.picks)
        found.append(samples)
    return found


def _curves(
    predictor: SMRCurvePredictor, samples: Sequence[Sample], codec: str, coding: str, task: str
) -> list[SMRCurve]:
    """As vcm-encode takes them. Raises CacheError for a predictor without any condition."""
    from vcm_ratecontrol.predictors.interface import Condition

    source = source_of(predictor.name, predictor, Condition(codec, coding, task))  # type: ignore[arg-type]
    if source is None:
        raise CacheError(f"predictor '{predictor.name}' was trained without labels; train it with vcm-train")
    return [source.curve(sample.picture, sample.evidence) for sample in samples]


def predicted_methods(probes: int) -> tuple[Targeted, ...]:
    """`smr` in its forms: pooled and each, without probes, with `probes` of them, and pooled with probes that tell bits
    alone."""
    methods = [
        Targeted("smr-pooled-0", "predicted, pooled, no probe", NOTHING, _unprobed("mean")),
        Targeted("smr-each-0", "predicted, each picture, no probe", NOTHING, _unprobed("each")),
        Targeted("smr-pooled-bits", f"predicted, pooled, bits of {COUNTED} probes", NOTHING, _pooled_counted(COUNTED)),
    ]
    if probes:
        text = f"{probes} probe{'s' * (probes > 1)}"
        methods += [
            Targeted("smr-pooled", f"predicted, pooled, {text}", MACHINES, _pooled_probed(probes)),
            Targeted("smr-each", f"predicted, each picture, {text}", MACHINES, _each_probed(probes)),
        ]
    return tuple(methods)


def shuffled_method() -> Targeted:
    """The negative control of prediction: every unit gets another one's SMR curve, and keeps its own bits."""

    def choose(view: View, target: float) -> Choice:
        curves = _of(view)
        columns = pooled(view, permuted(view, curves.smr), curves.bits, target)
        return Choice(columns, nothing_probed(view), float(curves.seconds.sum()))

    return Targeted("smr-shuffled", "control: predictions of other pictures, pooled", NOTHING, choose)


def _of(view: View) -> Prediction:
    if view.prediction is None:
        raise MissingToolError("no prediction; train the curve predictor with vcm-train, or give --predictor FILE")
    return view.prediction


def _unprobed(pool: Pool) -> Callable[[View, float], Choice]:
    """The plan of vcm-encode without probes."""

    def choose(view: View, target: float) -> Choice:
        prediction, aim = _of(view), Target(target, pool=pool)
        planned = plan(with_margin(_curves_of(view, prediction), aim, view.n_items), aim)
        return Choice(planned.qps.astype(np.intp), nothing_probed(view), float(prediction.seconds.sum()))

    return choose


@dataclass(frozen=True)
class _Known:
    """A probe whose result the table holds."""

    bits: int
    value: float | None

    def smr(self, task: Tasks) -> float | None:
        return self.value


def _pooled_probed(probes: int) -> Callable[[View, float], Choice]:
    """The rounds of vcm-encode: machines that judge are believed, others by their share of the truth."""
    return _rounds(probes, lambda view, at: float(view.smr[at]), asks=True)


def _pooled_counted(probes: int) -> Callable[[View, float], Choice]:
    """The rounds of vcm-encode for clips without machines: probes tell bits alone."""
    return _rounds(probes, lambda view, at: None, asks=False)


def _rounds(
    probes: int, smr_of: Callable[[View, tuple[int, int]], float | None], *, asks: bool
) -> Callable[[View, float], Choice]:
    """smr_of: what a probe of a unit and column tells besides its bits. asks: it asks machines."""

    def choose(view: View, target: float) -> Choice:
        prediction = _of(view)
        probed = nothing_probed(view)

        def probe_all(wanted: Sequence[tuple[int, int]]) -> list[_Known]:
            for at in wanted:
                probed[at] = True
            return [_Known(int(view.bits[at]), smr_of(view, at)) for at in wanted]

        curves, aim = _curves_of(view, prediction), Target(target, pool="mean")
        judges = view.known and asks
        if not judges:
            curves = with_margin(curves, aim, view.n_items)
        rounds = Rounds(curves, aim, probe_all, judges=judges, step=_step(view))
        return Choice(rounds.run(probes).qps.astype(np.intp), probed, float(prediction.seconds.sum()))

    return choose


def _curves_of(view: View, prediction: Prediction) -> Curves:
    """On the axis of the given levels, counted from 0, as the planning wants them evenly spaced."""
    smr = np.clip(prediction.smr, 0, 1)
    n_units, n_levels = view.shape
    return Curves(
        qps=np.arange(n_levels),
        smr=smr,
        low=smr,
        high=smr,
        bits=prediction.bits,
        deviation=prediction.deviation / _step(view),
        margin=np.zeros(n_units),
        known=np.zeros(n_units, np.int64),
        weights=view.weights,
        seen=np.ones(n_units, bool),
    )


def _step(view: View) -> float:
    """QPs between two given levels."""
    return float(np.diff(view.levels).mean())


def _each_probed(probes: int) -> Callable[[View, float], Choice]:
    """The search of vcm-encode, which begins at the predicted curve."""

    def choose(view: View, target: float) -> Choice:
        prediction = _of(view)
        probed = nothing_probed(view)
        columns = [
            search_smr(view, unit, target, probes, prediction.smr[unit], probed[unit]) for unit in range(view.shape[0])
        ]
        return Choice(np.array(columns, np.intp), probed, float(prediction.seconds.sum()))

    return choose
