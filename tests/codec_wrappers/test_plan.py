"""Plans: consecutive segments from frame 0 on, or an error that says where they are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from codec_wrappers.plan import EncodePlan, Segment, flat_plan
from tests.codec_wrappers.joining import plan_of


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 63)), min_size=1, max_size=20))
def test_consecutive_segments_are_a_plan(parts: list[tuple[int, int]]) -> None:
    at, segments = 0, []
    for length, qp in parts:
        segments.append(Segment(at, at + length, qp))
        at += length
    plan = EncodePlan(tuple(segments))
    assert plan.n_frames == at == sum(segment.n_frames for segment in plan.segments)


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (Segment(1, 5, 30),),
        (Segment(0, 0, 30),),
        (Segment(0, 5, 30), Segment(6, 9, 30)),
        (Segment(0, 5, 30), Segment(4, 9, 30)),
        (Segment(0, 5, 30), Segment(5, 3, 30)),
        (Segment(5, 9, 30), Segment(0, 5, 30)),
        (Segment(-5, 0, 30), Segment(0, 5, 30)),
    ],
)
def test_gaps_overlaps_and_nothing_are_refused(segments: tuple[Segment, ...]) -> None:
    with pytest.raises(InputError, match=r"^plan: "):
        EncodePlan(segments)


def test_a_flat_plan_is_one_segment() -> None:
    assert flat_plan(7, 22).segments == (Segment(0, 7, 22),)
    with pytest.raises(InputError, match=r"no frames|consecutive"):
        flat_plan(0, 22)


def test_a_map_has_one_frame_or_all() -> None:
    import numpy as np

    from codec_wrappers.qpmap import QPMap

    segments = plan_of(6, [30, 40]).segments
    for frames in (1, 6):
        EncodePlan(segments, QPMap(np.full((frames, 2, 3), 30, np.int16), 64, 192, 128))
    with pytest.raises(InputError, match="the map has 5 frames, the plan 6; give 1 or 6"):
        EncodePlan(segments, QPMap(np.full((5, 2, 3), 30, np.int16), 64, 192, 128))
