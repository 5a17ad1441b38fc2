"""The predicted methods: curves from a shipped network, which sees the original and what the choosing machines say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from codec_wrappers.errors import CacheError, MissingToolError, VcmError
from vcm_ratecontrol.bench.choice import MACHINES, NOTHING, Choice
from vcm_ratecontrol.bench.methods import Targeted, each, nothing_probed, permuted, pooled
from vcm_ratecontrol.bench.table import Floats, Indices, Table
from vcm_ratecontrol.bench.view import Prediction, View
from vcm_ratecontrol.ratecontrol.shift import TRANSFER_SHRINK, MeasuredSmr, refine

if TYPE_CHECKING:
    from vcm_ratecontrol.predictors.inference import SMRCurvePredictor
    from vcm_ratecontrol.predictors.interface import Sample, SMRCurve

# Tried in this order where nobody names a predictor.
PREDICTORS = ("curve_small", "curve_evidence")

Decide = Callable[[View, Floats, Floats, float], Indices]


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
    smr, bits, seconds = (np.zeros((n_units, len(levels))) for _ in range(3))
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
        seconds[at] = time.monotonic() - started
    looks = sum(table.machine_seconds[name] for name in choosing)
    return Prediction(smr, bits, seconds[:, 0] + looks), failed


def _samples(
    table: Table, choosing: Sequence[str], max_side: int, t_conf: float, failed: dict[int, str]
) -> list[list[Sample]]:
    """Per unit its sampled frames, with what the choosing machines say of each; empty where it cannot be read."""
    from vcm_ratecontrol.predictors.evidence import confidence_map
    from vcm_ratecontrol.predictors.interface import Sample
    from vcm_ratecontrol.training.evidence_table import evidence_table

    sizes = {
        name: (table.items[item].width, table.items[item].height)
        for name, item in zip(table.opinions.pictures, table.frame_item.tolist(), strict=True)
    }
    evidence, originals = evidence_table(table.whole, sizes, t_conf, table.opinions.score)
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
            seen = next((seen for m in machines if (seen := originals.of(at, m)) is not None), None)
            size = rgb.shape[1], rgb.shape[0]
            samples.append(
                Sample(
                    rgb,
                    evidence=tuple(evidence.machine_evidence(at, m) for m in asked),
                    confidence_map=confidence_map(*seen, *size) if seen is not None else None,
                )
            )
        frame += len(unit.picks)
        found.append(samples)
    return found


def _curves(
    predictor: SMRCurvePredictor, samples: Sequence[Sample], codec: str, coding: str, task: str
) -> list[SMRCurve]:
    """By the condition of the encoder, else by the nearest one that the predictor was trained for."""
    from dataclasses import replace

    from vcm_ratecontrol.predictors.interface import Condition

    error: CacheError | None = None
    for known in dict.fromkeys(((codec, coding), ("vvc", coding), ("vvc", "still"))):
        condition = Condition(known[0], known[1], task)  # type: ignore[arg-type]
        try:
            return predictor.predict([replace(sample, condition=condition) for sample in samples])
        except CacheError as untrained:
            error = error or untrained
    assert error is not None
    raise error


def predicted_methods(probes: int) -> tuple[Targeted, ...]:
    """`smr` in its four forms: pooled and each, without probes and with `probes` of them."""
    methods = [
        Targeted("smr-pooled-0", "predicted, pooled, no probe", NOTHING, _unprobed(pooled)),
        Targeted("smr-each-0", "predicted, each picture, no probe", NOTHING, _unprobed(each)),
    ]
    if probes:
        text = f"{probes} probe{'s' * (probes > 1)}"
        methods += [
            Targeted("smr-pooled", f"predicted, pooled, {text}", MACHINES, _probed(pooled, probes)),
            Targeted("smr-each", f"predicted, each picture, {text}", MACHINES, _probed(each, probes)),
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


def _unprobed(decide: Decide) -> Callable[[View, float], Choice]:
    def choose(view: View, target: float) -> Choice:
        curves = _of(view)
        columns = decide(view, curves.smr, curves.bits, target)
        return Choice(columns, nothing_probed(view), float(curves.seconds.sum()))

    return choose


def _probed(decide: Decide, probes: int) -> Callable[[View, float], Choice]:
    """Each round codes every unit where the curves put it, and moves its curves to what was measured there."""

    def choose(view: View, target: float) -> Choice:
        curves = _of(view)
        probed = nothing_probed(view)
        rows = np.arange(view.shape[0])
        measured: dict[int, list[MeasuredSmr]] = {int(unit): [] for unit in rows}
        smr, bits = curves.smr, curves.bits.copy()
        # Judges that did not choose follow the measured machines in part only.
        weight = 1.0 if view.known else TRANSFER_SHRINK
        for _ in range(probes):
            columns = decide(view, smr, bits, target)
            fresh = rows[~probed[rows, columns]]
            for unit in fresh.tolist():
                at = int(columns[unit])
                probed[unit, at] = True
                measured[unit].append(MeasuredSmr(float(view.levels[at]), float(view.smr[unit, at])))
                # Bits of a picture are off by one factor at all levels, nearly.
                bits[unit] *= view.bits[unit, at] / bits[unit, at]
            smr = np.clip(refine(curves.smr, view.levels, measured, weight=weight, pin=view.known), 0, 1)
            if not len(fresh):
                break
        return Choice(decide(view, smr, bits, target), probed, float(curves.seconds.sum()))

    return choose
