"""Verdicts and curves from the table: equal to judging each pair of results on its own, at any thresholds."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from tests.vcm_ratecontrol.label_rows import QPS, classification, detections, key, machine_rows
from vcm_ratecontrol.annotate.rows import Row, rounded
from vcm_ratecontrol.labels import matching
from vcm_ratecontrol.labels.curves import mean_smr, smr_curves, to_levels
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.tables import rows_table
from vcm_ratecontrol.labels.verdicts import Verdicts, join, verdicts
from vcm_ratecontrol.machines.machine import Classification, Result
from vcm_ratecontrol.satisfaction import Thresholds, verdict

ALL_QPS = (ORIGINAL_QP, *QPS)

boxes = st.tuples(
    *(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30)),
    *(st.integers(15, 100), st.integers(0, 2)),
).map(lambda b: (b[0], b[1], b[0] + b[2] / 4, b[1] + b[3], b[4] / 100, b[5]))
seen = st.lists(boxes, max_size=7).map(lambda found: detections(*found))
answers = st.builds(classification, st.integers(0, 9), st.integers(20, 100).map(lambda p: p / 100))
thresholds = st.builds(
    Thresholds,
    confidence=st.sampled_from([0.2, 0.3, 0.5, 0.77]),
    iou=st.sampled_from([0.1, 0.5, 0.75]),
    score=st.sampled_from([0.3, 0.5, 2 / 3, 1.0]),
    label_confidence=st.sampled_from([0.0, 0.5]),
)


def results(kind: st.SearchStrategy[Result]) -> st.SearchStrategy[dict[int, Result | None]]:
    return st.fixed_dictionaries({qp: st.none() | kind if qp == QPS[0] else kind for qp in ALL_QPS})


libraries = st.fixed_dictionaries({"c1": results(answers), "d1": results(seen), "d2": results(seen)})


@settings(max_examples=80, deadline=None)
@given(st.lists(libraries, min_size=1, max_size=3), thresholds)
def test_the_whole_table_is_judged_as_each_pair_alone(
    pictures: list[Mapping[str, dict[int, Result | None]]], asked: Thresholds
) -> None:
    rows: list[Row] = []
    for number, library in enumerate(pictures):
        for name, found in library.items():
            rows += machine_rows(key(number), name, found)
    got = verdicts(rows_table(rows), asked)
    assert got.qps == ALL_QPS
    for number, library in enumerate(pictures):
        p = got.pictures.index(key(number))
        for name, found in library.items():
            m = got.machines.index(name)
            for q, qp in enumerate(ALL_QPS):
                result, first = found[qp], found[ORIGINAL_QP]
                if result is None or first is None:
                    assert not got.valid[p, m, q]
                    continue
                alone = verdict(name, _stored(first), _stored(result), asked)
                assert got.valid[p, m, q] == alone.valid
                assert got.satisfied[p, m, q] == alone.satisfied
                if alone.valid:
                    assert got.score[p, m, q] == pytest.approx(alone.score, abs=1 / 1024)
                else:
                    assert np.isnan(got.score[p, m, q])
    # The law that holds at all thresholds: everybody is content with the original.
    assert (got.satisfied[:, :, 0] == got.valid[:, :, 0]).all()


def _stored(result: Result) -> Result:
    """As the table holds it: a classifier's confidence in steps as well."""
    if isinstance(result, Classification):
        step = np.floor(result.confidence * 1024 + 1e-6) / 1024
        return Classification(result.label, float(step), result.probabilities)
    return rounded(result)


def test_portions_of_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    rows: list[Row] = []
    for number in range(12):
        found: dict[int, Result | None] = {}
        for qp in ALL_QPS:
            values = rng.integers(0, 40, (rng.integers(0, 9), 4))
            box = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:] + 1], axis=1)
            found[qp] = detections(*((*b, rng.integers(3, 10) / 10, rng.integers(3)) for b in box))
        rows += machine_rows(key(number), "d1", found)
    table = rows_table(rows)
    whole = verdicts(table)
    monkeypatch.setattr(matching, "PAIRS_AT_A_TIME", 7)
    pieces = verdicts(table)
    assert np.array_equal(whole.satisfied, pieces.satisfied)
    assert np.array_equal(whole.score, pieces.score, equal_nan=True)


def test_a_machine_that_failed_is_invalid_and_never_satisfied() -> None:
    found = {qp: detections((0, 0, 9, 9, 0.9, 1)) for qp in ALL_QPS}
    some = verdicts(rows_table(machine_rows(key(0), "d1", {**found, 30: None})))
    assert some.valid[0, 0].tolist() == [True, True, False, True]
    none = verdicts(rows_table(machine_rows(key(0), "d1", {**found, ORIGINAL_QP: None})))
    assert not none.valid.any()
    assert not none.satisfied.any()


@pytest.fixture(scope="module")
def opinions() -> Verdicts:
    """Two pictures: a detector that loses its object at 40, one that sees nothing on the first, a classifier."""
    there, gone = detections((0, 0, 9, 9, 0.9, 1)), detections()
    rows: list[Row] = []
    for number in (0, 1):
        rows += machine_rows(key(number), "d1", {ORIGINAL_QP: there, 20: there, 30: there, 40: gone})
        second = gone if number == 0 else there
        rows += machine_rows(key(number), "d2", dict.fromkeys(ALL_QPS, second))
        right, wrong = classification(3), classification(4)
        rows += machine_rows(key(number), "c1", {ORIGINAL_QP: right, 20: right, 30: wrong, 40: right})
    return verdicts(rows_table(rows))


def test_smr_curves_by_hand(opinions: Verdicts) -> None:
    curves = smr_curves(opinions)
    first, second = curves.pictures.index(key(0)), curves.pictures.index(key(1))
    assert curves.qps == QPS
    assert curves.valid[first].tolist() == [2, 2, 2]
    assert curves.smr[first].tolist() == [1.0, 0.5, 0.5]
    assert curves.smr[second].tolist() == [1.0, pytest.approx(2 / 3), pytest.approx(2 / 3)]
    detection = smr_curves(opinions, "detection")
    assert detection.smr[first].tolist() == [1.0, 1.0, 0.0]
    assert mean_smr(detection).tolist() == [1.0, 1.0, 0.25]
    assert smr_curves(opinions, machines=["d2"]).valid[first].tolist() == [0, 0, 0]
    assert np.isnan(smr_curves(opinions, machines=["d2"]).smr[first]).all()
    assert smr_curves(opinions, machines=["d2"]).with_valid(1).pictures == (key(1),)


def test_choices_that_are_not_there_are_refused(opinions: Verdicts) -> None:
    with pytest.raises(InputError, match="nobody"):
        smr_curves(opinions, machines=["nobody"])
    with pytest.raises(InputError, match="segmentation"):
        smr_curves(opinions, "segmentation")


def test_thresholds_below_what_is_stored_are_refused() -> None:
    table = rows_table(machine_rows(key(0), "d1", dict.fromkeys(ALL_QPS, detections())))
    with pytest.raises(InputError, match="T_conf"):
        verdicts(table, Thresholds(confidence=0.1))


def test_joined_tables_are_as_one() -> None:
    rows = [machine_rows(key(n), "d1", dict.fromkeys(ALL_QPS, detections((0, 0, 9, 9 + n, 0.9, 1)))) for n in (0, 1, 2)]
    whole = verdicts(rows_table([row for part in rows for row in part]))
    parts = join([verdicts(rows_table(part)) for part in reversed(rows)])
    assert parts.pictures == whole.pictures
    assert np.array_equal(parts.bits, whole.bits)
    assert np.array_equal(parts.satisfied, whole.satisfied)


def test_pictures_can_be_chosen(opinions: Verdicts) -> None:
    chosen = opinions.of_pictures([key(1), "unknown"])
    assert chosen.pictures == (key(1),)
    assert chosen.bits.shape == (1, 4)


def test_levels_between_measured_ones_take_the_higher_one() -> None:
    levels = to_levels(np.array([0.9, 0.5, 0.2]), QPS)
    assert levels.shape == (64,)
    assert levels[[0, 20]].tolist() == [0.9, 0.9]
    assert levels[[21, 30]].tolist() == [0.5, 0.5]
    assert levels[[31, 40]].tolist() == [0.2, 0.2]
    assert levels[41:].max() == 0.0
