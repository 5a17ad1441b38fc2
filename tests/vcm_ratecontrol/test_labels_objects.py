"""JRD from the table: per object and machine, and over machines that see the same object."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from tests.vcm_ratecontrol.label_rows import detections, key, machine_rows
from vcm_ratecontrol.annotate.rows import Row
from vcm_ratecontrol.jrd_rules import first_lasting_failure, published_window_rule
from vcm_ratecontrol.labels.objects import (
    ObjectFlags,
    join_objects,
    jrd_at_ratio,
    object_flags,
    object_jrd,
    physical_objects,
)
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.tables import rows_table
from vcm_ratecontrol.machines.machine import Result
from vcm_ratecontrol.satisfaction import Thresholds

QPS = (20, 30, 40)
CAT, DOG = (0, 0, 20, 20, 0.9, 1), (30, 30, 50, 50, 0.6, 2)


def rows_of(picture: int, machine: str, *found: list[tuple[float, ...]]) -> list[Row]:
    """Found on the original, then at each QP."""
    results: dict[int, Result | None] = {
        qp: detections(*one)
        for qp, one in zip((ORIGINAL_QP, *QPS), found, strict=True)  # type: ignore[arg-type]
    }
    return machine_rows(key(picture), machine, results)


def moved(box: tuple[float, ...], by: float, **change: float) -> tuple[float, ...]:
    x1, y1, x2, y2, score, label = box
    return x1 + by, y1, x2 + by, y2, change.get("score", score), change.get("label", label)


def flags_of(*rows: list[Row], **asked: float) -> ObjectFlags:
    return object_flags(rows_table([row for part in rows for row in part]), Thresholds(**asked))


def test_recognised_is_class_confidence_and_place() -> None:
    found = flags_of(
        rows_of(
            0, "d1", [CAT, DOG], [CAT, moved(DOG, 2)], [moved(CAT, 0, label=7), DOG], [CAT, moved(DOG, 0, score=0.29)]
        )
    )
    assert found.classes.tolist() == [1, 2]
    assert found.index.tolist() == [0, 1]
    assert found.recognised.tolist() == [[True, False, True], [True, True, False]]
    assert found.boxes[1].tolist() == [30, 30, 50, 50]
    # A stricter overlap loses the moved dog, a higher T_conf the dog as an object.
    assert flags_of(rows_of(0, "d1", [DOG], [moved(DOG, 2)], [DOG], [DOG]), iou=0.9).recognised.tolist() == [
        [False, True, True]
    ]
    assert len(flags_of(rows_of(0, "d1", [CAT, DOG], [], [], []), confidence=0.7)) == 1


def test_two_objects_may_share_a_detection() -> None:
    """JRD asks of each object alone whether something there still has its name; F1 counts each match once."""
    near = moved(CAT, 2, score=0.8)
    assert flags_of(rows_of(0, "d1", [CAT, near], [CAT], [CAT], [])).recognised.tolist() == [[True, True, False]] * 2


def test_object_rows_of_the_table_say_the_same_at_default_thresholds() -> None:
    rows = rows_of(0, "d1", [CAT, DOG], [moved(CAT, 3), DOG], [moved(DOG, 1)], [moved(CAT, 0, score=0.31)])
    stored = {(row["object"], row["qp"]): row["satisfied"] for row in rows if row["object"] >= 0 and row["qp"] >= 0}
    found = flags_of(rows)
    for at, index in enumerate(found.index.tolist()):
        assert found.recognised[at].tolist() == [stored[index, qp] for qp in QPS]


def test_a_machine_that_fails_does_not_recognise() -> None:
    results: dict[int, Result | None] = {qp: detections(CAT) for qp in (ORIGINAL_QP, *QPS)}
    failing = machine_rows(key(0), "d1", {**results, 30: None})
    assert object_flags(rows_table(failing)).recognised.tolist() == [[True, False, True]]


def test_jrd_of_hand_made_sequences() -> None:
    found = flags_of(
        rows_of(0, "d1", [CAT], [CAT], [CAT], []),
        rows_of(1, "d1", [CAT], [], [], []),
        rows_of(2, "d1", [CAT], [CAT], [], [CAT]),
    )
    by_picture = {found.pictures[p]: at for at, p in enumerate(found.picture.tolist())}
    order = [by_picture[key(n)] for n in range(3)]
    # One lost QP does not last; and the window below 40 holds no lost level.
    assert object_jrd(found, "first-failure")[order].tolist() == [30, 0, 40]
    assert object_jrd(found, "window")[order].tolist() == [30, 0, 40]
    with pytest.raises(InputError, match="rule"):
        object_jrd(found, "luck")  # type: ignore[arg-type]


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=5))
def test_jrd_is_the_rule_of_each_sequence(sequences: list[list[bool]]) -> None:
    rows = [
        rows_of(0, f"d{number}", [CAT], *([CAT] if there else [] for there in sequence))
        for number, sequence in enumerate(sequences)
    ]
    found = flags_of(*rows)
    assert found.recognised.tolist() == sequences
    assert object_jrd(found, "window").tolist() == [published_window_rule(s, QPS) for s in sequences]
    assert object_jrd(found, "first-failure").tolist() == [first_lasting_failure(s, QPS) for s in sequences]


@given(st.integers(0, 3))
def test_both_rules_agree_on_monotone_sequences(kept: int) -> None:
    found = flags_of(rows_of(0, "d1", [CAT], *([CAT] if at < kept else [] for at in range(3))))
    expected = [0, *QPS][kept]
    assert object_jrd(found, "window").tolist() == object_jrd(found, "first-failure").tolist() == [expected]


def test_objects_of_different_machines_are_matched_without_class() -> None:
    kitten = moved(CAT, 4, label=3, score=0.5)  # IoU 2/3
    far = moved(CAT, 9, score=0.4)  # IoU 0.38 with the cat, 0.6 with the kitten
    found = flags_of(
        rows_of(0, "d1", [CAT, DOG], [], [], []),
        rows_of(0, "d2", [kitten], [], [], []),
        rows_of(0, "d3", [far], [], [], []),
        rows_of(1, "d1", [CAT], [], [], []),
    )
    groups = dict(zip(zip(found.picture.tolist(), found.machine.tolist(), found.index.tolist(), strict=True),
                      physical_objects(found).tolist(), strict=True))  # fmt: skip
    first, second = found.pictures.index(key(0)), found.pictures.index(key(1))
    assert groups[first, 0, 0] == groups[first, 1, 0]
    # Membership is decided by the most confident member, so that objects do not grow into chains.
    assert groups[first, 2, 0] != groups[first, 0, 0]
    assert groups[first, 0, 1] not in (groups[first, 0, 0], groups[first, 2, 0])
    assert groups[second, 0, 0] not in (groups[first, 0, 0], groups[first, 0, 1], groups[first, 2, 0])
    assert sorted(set(groups.values())) == [0, 1, 2, 3]


def test_a_machine_has_one_member_in_a_physical_object() -> None:
    twice = [CAT, moved(CAT, 3, score=0.7)]
    found = flags_of(rows_of(0, "d1", twice, [], [], []), rows_of(0, "d2", twice, [], [], []))
    groups = physical_objects(found)
    assert np.bincount(groups).tolist() == [2, 2]
    for group in (0, 1):
        assert sorted(found.machine[groups == group].tolist()) == [0, 1]


def test_jrd_at_a_ratio_by_hand() -> None:
    kept = {"d1": 3, "d2": 2, "d3": 2, "d4": 0}  # JRD 40, 30, 30, 0
    found = flags_of(
        *(rows_of(0, name, [CAT], *([CAT] if at < n else [] for at in range(3))) for name, n in kept.items())
    )
    jrd, groups = object_jrd(found), physical_objects(found)

    def at(ratio: float, least: int = 1) -> list[int]:
        return jrd_at_ratio(found, jrd, groups, ratio, least).jrd.tolist()

    assert (at(0.01), at(0.25), at(0.5), at(0.75), at(0.76), at(1.0)) == ([40], [40], [30], [30], [0], [0])
    assert at(0.5, least=5) == []
    assert jrd_at_ratio(found, jrd, groups, 0.5).n_machines.tolist() == [4]
    with pytest.raises(InputError, match="ratio"):
        at(0.0)


@given(st.lists(st.integers(0, 63), min_size=1, max_size=30), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9, 1.0]))
def test_jrd_at_a_ratio_is_what_it_says(levels: list[int], ratio: float) -> None:
    """The highest of the machines' JRDs such that at least the share `ratio` of them have no lower one."""
    n = len(levels)
    found = ObjectFlags(
        pictures=("a",),
        machines=tuple(f"d{i}" for i in range(n)),
        qps=QPS,
        picture=np.zeros(n, np.int64),
        machine=np.arange(n),
        index=np.zeros(n, np.int64),
        boxes=np.tile(np.array([0, 0, 9, 9], np.float32), (n, 1)),
        classes=np.ones(n, np.int16),
        confidences=np.full(n, 0.9, np.float32),
        recognised=np.zeros((n, 3), bool),
    )
    jrd = np.array(levels, np.int16)
    (got,) = jrd_at_ratio(found, jrd, np.zeros(n, np.int64), ratio).jrd.tolist()
    fits = [level for level in levels if sum(other >= level for other in levels) >= ratio * n - 1e-9]
    assert got == max(fits)


def test_joined_tables_keep_their_objects_apart() -> None:
    one, two = flags_of(rows_of(0, "d1", [CAT], [CAT], [], [])), flags_of(rows_of(1, "d2", [DOG], [], [], []))
    both = join_objects([one, two])
    assert both.pictures == (key(0), key(1))
    assert [both.machines[m] for m in both.machine.tolist()] == ["d1", "d2"]
    assert physical_objects(both).tolist() == [0, 1]
    assert len(both.of_machines(["d2"])) == len(both.of_pictures([key(0)])) == 1
    with pytest.raises(InputError, match="d9"):
        both.of_machines(["d9"])


def test_no_objects_at_all() -> None:
    none = flags_of(rows_of(0, "d1", [], [], [], []))
    assert (len(none), len(object_jrd(none)), len(physical_objects(none))) == (0, 0, 0)
    assert len(jrd_at_ratio(none, object_jrd(none), physical_objects(none), 0.5)) == 0
