"""What stands beside a predictor's error: halves of the judges, other machines that were measured, best constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vcm_ratecontrol.training_table import tiny
from vcm_ratecontrol.training.curve_bank import Partition
from vcm_ratecontrol.training.data import DataRequest, TrainingData
from vcm_ratecontrol.training.evaluation.figures import Figure, Resampling, middle_figure
from vcm_ratecontrol.training.evaluation.object_levels import median_level
from vcm_ratecontrol.training.evaluation.object_references import (
    Shrinkage,
    levels_of,
    measured_by,
    measured_by_halves,
    median_regression,
    training_objects,
)
from vcm_ratecontrol.training.evaluation.objects import Judged, error_row, reference_rows
from vcm_ratecontrol.training.evaluation.split_half import between_halves, floor_figures, split_halves
from vcm_ratecontrol.training.label_set import load_label_set
from vcm_ratecontrol.training.machine_split import split_machines
from vcm_ratecontrol.training.object_objective import ObjectObjective
from vcm_ratecontrol.training.pictures import PictureStore, Sources
from vcm_ratecontrol.training.samples import Samples

LABELS = Path(__file__).parents[2] / "data" / "labels" / "vvc-faster-inter"
PLAIN = Resampling(0, 0)


def test_the_floor_is_the_error_of_a_perfect_predictor() -> None:
    """Verdicts drawn at known probabilities: who says the probability itself errs by the floor, and correlates so."""
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.1, 0.9, 3000)
    for machines, low in ((4, 0.8), (10, 0.9), (31, 0.95)):  # of few verdicts the floor is too low
        satisfied = rng.random((len(probability), machines)) < probability[:, None]
        smr = satisfied.mean(axis=1)
        halves = split_halves(np.ones_like(satisfied), satisfied, ["detection"] * machines)
        error = np.abs(smr - probability)
        figures = floor_figures(halves, np.abs(smr - smr.mean()), PLAIN)
        floor, share = figures["MAE"].value, figures["% of the mean curve's error"].value
        assert floor is not None and low < floor / error.mean() < 1.05
        assert share == pytest.approx(100 * floor / np.abs(smr - smr.mean()).mean())
        assert figures["SMR correlation"].value == pytest.approx(np.corrcoef(probability, smr)[0, 1], abs=0.02)
        between = between_halves(halves, PLAIN)["MAE"].value
        assert between == pytest.approx(2 * floor, rel=0.01)


def test_halves_are_of_each_task_alike() -> None:
    """If the tasks alone decide, halves agree; nothing is said where fewer than two machines are valid."""
    tasks = ["classification"] * 4 + ["detection"] * 6
    satisfied = np.tile(np.array([task == "detection" for task in tasks]), (3, 1))
    valid = np.ones_like(satisfied)
    valid[1, 1:] = False
    valid[2, [0, 5]] = False
    halves = split_halves(valid, satisfied & valid, tasks)
    assert np.isnan(halves.first[:, 1]).all() and np.isnan(halves.second[:, 1]).all() and halves.whole[1] == 0
    np.testing.assert_array_equal(halves.first[:, 0], halves.second[:, 0])
    np.testing.assert_allclose(halves.whole[[0, 2]], 0.5)
    assert ((halves.first[:, 2] + halves.second[:, 2]) / 2).tolist() == [5 / 8] * len(halves.first)
    alike = split_halves(valid[:1], valid[:1], tasks)
    figures = between_halves(alike, Resampling(0, 10))
    assert figures["MAE"].value == 0 and figures["SMR correlation"].value is None


def test_a_mean_over_qps_is_none_where_one_is_missing() -> None:
    two = [Figure(0.1, 0.0, 0.2, 9), Figure(0.3, 0.2, 0.6, 8)]
    mean = middle_figure(two)
    assert [mean.value, mean.low, mean.high] == pytest.approx([0.2, 0.1, 0.4]) and mean.n == 8
    assert middle_figure([two[0], Figure(None, None, None, 9)]).value is None
    without = middle_figure([Figure(0.1, None, None, 9), two[1]])
    assert without.value == pytest.approx(0.2) and without.low is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.integers(0, 6))
def test_the_median_level_is_a_measured_one_and_right_where_all_is_sure(said: list[float], last: int) -> None:
    qps = (20, 26, 32, 38, 44, 50)
    assert median_level(np.array(said), qps) in (0, *qps)
    sure = np.arange(6) < last
    assert median_level(sure.astype(float), qps) == (0, *qps)[last]
    risen = np.clip(np.array(said) + 0.2, 0, 1)
    assert median_level(risen, qps) >= median_level(np.array(said), qps)


def test_the_median_level_errs_least() -> None:
    """Probabilities from drawn JRDs: no other measured level has a lower mean absolute error."""
    rng = np.random.default_rng(2)
    qps = (20, 26, 32, 38, 44, 50)
    for _ in range(20):
        jrd = rng.choice((0, *qps), 41, p=rng.dirichlet(np.ones(7)))
        probability = np.array([(jrd >= qp).mean() for qp in qps])
        errors = {level: np.abs(jrd - level).mean() for level in (0, *qps)}
        assert errors[median_level(probability, qps)] == pytest.approx(min(errors.values()))
    assert median_level(np.array([0.9, 0.6, 0.2, 0.7, 0.2, 0.1]), qps) == 26  # one lucky level among lost ones


def test_shrinkage_finds_what_transfers() -> None:
    rng = np.random.default_rng(3)
    measured = rng.uniform(20, 60, 400)
    measured[:50] = np.nan
    true = np.where(np.isfinite(measured), 38 + 0.6 * (measured - 41), 38) + rng.normal(0, 0.1, 400)
    fitted = Shrinkage.fitted(measured, true)
    assert fitted.factor == pytest.approx(0.6, abs=0.02)
    assert np.abs(fitted(measured) - true)[50:].mean() < 1
    assert fitted(np.array([np.nan, 1e6])).tolist() == [fitted.constant, 63]
    assert Shrinkage.fitted(measured, rng.permutation(true)).factor < 0.2
    assert Shrinkage.fitted(np.full(4, np.nan), np.arange(4.0))(np.array([np.nan, 40])).tolist() == [1.5, 1.5]
    features = np.column_stack([measured, rng.uniform(0, 1, 400)])
    features[60] = np.nan
    said = median_regression(features[:300], true[:300], features[300:])
    assert np.abs(said - true[300:]).mean() < 0.2
    assert median_regression(features[:300], true[:300], features[:1]) == pytest.approx([np.median(true[:300])])


def table_of_clips(judges: str) -> TrainingData:
    """The labels of frames of clips that this package ships, without the clips."""
    labels = load_label_set(str(LABELS))
    machines = split_machines(labels.verdicts.machines, labels.verdicts.tasks, judges)
    asked = DataRequest((str(LABELS),), (), judges, Path())
    none = PictureStore(Sources({}, {}))
    samples = Samples((labels,), none, np.zeros(len(labels), np.int64), np.arange(len(labels)))
    return TrainingData(asked, (labels,), machines, none, samples, ())


@pytest.fixture(scope="module")
def clips() -> ObjectObjective:
    data = table_of_clips("hash")
    parts = [Partition(data.machines.judging, data.machines.choosing)]
    return ObjectObjective(tiny("dtjrd_small"), {}, data, 0, parts)


def test_other_detectors_are_asked_about_the_same_object(clips: ObjectObjective) -> None:
    """What they measured is their own JRD of the physical object; of the judges it is the truth."""
    training = training_objects(clips)
    assert len(training) > 50
    rows = np.array([int(clips.of(target).picture[target.at]) for target in training])
    assert set(clips.data.sets[0].splits[rows]) == {"train"}
    judges, others = clips.data.machines.judging, clips.data.machines.choosing
    np.testing.assert_array_equal(measured_by(clips, judges, training)[:, 0], levels_of(clips, training))
    measured = measured_by(clips, others, training)
    told = clips.banks[0].targets(others, [clips.options.ratio], 1)
    known = dict(zip(told.group.tolist(), zip(told.jrd[:, 0], told.n_machines, strict=True), strict=True))
    for target, (level, mean, number) in zip(training, measured, strict=True):
        group = int(clips.of(target).group[target.at])
        assert (level, number) == known[group] if group in known else np.isnan(mean)


def test_halves_of_judges_share_no_judge_and_follow_the_ratio(clips: ObjectObjective) -> None:
    bank, judges = clips.banks[0], clips.data.machines.judging
    training = training_objects(clips)[:40]
    halves = measured_by_halves(clips, judges, training)
    assert np.isfinite(halves.levels).all() and (halves.whole > 0.4).all()
    for at, target in enumerate(training):
        group = int(clips.of(target).group[target.at])
        seen = bank.jrd[bank.members(group, clips.data.sets[0].machines_at(judges))]
        assert set(halves.levels[:, :, at].ravel()) <= set(seen.tolist())
        # At ratio 0.75 of up to four machines all must recognise it: the worst half is the worst judge.
        if len(seen) <= 6:
            assert (halves.levels[:, :, at].min(axis=0) == seen.min()).all()
    alone = measured_by_halves(clips, judges[:0], training)
    assert np.isnan(alone.levels).all() and not alone.whole.any()


def test_references_of_the_shipped_labels(clips: ObjectObjective) -> None:
    """Of frames of clips that nothing was fitted to: others help; where all judge there are none."""
    judged = Judged.of(clips, clips.judged("test", 0))
    rows = {row.name: row.figures["error, levels"].value or 0.0 for row in reference_rows(clips, judged, PLAIN)}
    assert list(rows) == [
        "best constant",
        "constant of the training objects",
        "other detectors, measured: their JRD",
        "other detectors, measured: also their mean JRD and number",
        "one half of the judges for the other half",
        "split-half floor: the finite library alone",
    ]
    assert rows["best constant"] <= rows["constant of the training objects"]
    assert rows["other detectors, measured: also their mean JRD and number"] < rows["best constant"]
    assert rows["split-half floor: the finite library alone"] < rows["one half of the judges for the other half"]
    same = table_of_clips("same")
    objective = ObjectObjective(
        tiny("dtjrd_small"), {}, same, 0, [Partition(same.machines.judging, same.machines.choosing)]
    )
    names = [row.name for row in reference_rows(objective, Judged.of(objective, objective.judged("test", 200)), PLAIN)]
    assert len(names) == 4 and not [name for name in names if name.startswith("other detectors")]


def test_intervals_of_objects_are_over_pictures() -> None:
    error, pictures = np.array([1.0, 1, 9, 9]), np.array([0, 0, 7, 7])
    row = error_row("a", error, np.full(4, 10.0), pictures, Resampling(0, 200))
    wide = row.figures["error, levels"]
    assert (wide.value, wide.low, wide.high, wide.n) == (5, 1, 9, 2)
    assert row.figures["skill against the best constant"].value == pytest.approx(50)
    alone = error_row("b", error, np.zeros(4), pictures, PLAIN, np.array([0]))
    assert alone.figures["error, levels"].value == 1
