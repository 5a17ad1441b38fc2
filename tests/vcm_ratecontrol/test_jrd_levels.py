"""The rule from confidence and size to a level, its fit, and what frames and clips are given by it."""

import numpy as np
import pytest

from codec_wrappers.capabilities import Capabilities
from codec_wrappers.errors import InputError, UnsupportedError
from vcm_ratecontrol.jrd.costs import TYPICAL_COST, block_costs, object_costs
from vcm_ratecontrol.jrd.fit_levels import quantile_regression
from vcm_ratecontrol.jrd.frame_levels import BACKGROUND, Margin, drawn
from vcm_ratecontrol.jrd.levels import TYPICAL_CONFIDENCE, level_rule
from vcm_ratecontrol.jrd.maps import background_qp_of, block_levels, qp_map_of, smooth_in_time, without_needless_maps


def test_surer_objects_and_lower_targets_stand_more() -> None:
    sizes = np.full(3, 0.3)
    for codec in ("vvc", "hevc"):
        rising = level_rule(codec, 0.75).own_levels([0.35, 0.6, 0.9], sizes)
        assert (np.diff(rising) > 1).all()
        by_ratio = [level_rule(codec, ratio).own_levels([0.6], [0.3])[0] for ratio in (0.25, 0.5, 0.75, 0.9)]
        assert by_ratio == sorted(by_ratio, reverse=True)
        by_caution = [level_rule(codec, 0.75, caution).own_levels([0.6], [0.3])[0] for caution in (0.1, 0.25, 0.5)]
        assert by_caution == sorted(by_caution)


def test_objects_of_a_job_are_coarser_the_more_they_cost() -> None:
    own, costs = np.array([35.0, 35.0, 35.0]), np.array([TYPICAL_COST / 8, TYPICAL_COST, TYPICAL_COST * 8])
    usual = np.full(3, TYPICAL_CONFIDENCE[False])
    pooled = level_rule("vvc", 0.75).job_levels(own, costs, usual)
    assert np.diff(pooled) == pytest.approx([6, 6])
    np.testing.assert_array_equal(level_rule("vvc", 0.75, pooling=None).job_levels(own, costs, usual), own)


def test_objects_of_a_job_are_coarser_the_fewer_machines_have_them_to_lose() -> None:
    rule, own = level_rule("vvc", 0.75), np.full(3, 35.0)
    falling = rule.job_levels(own, np.full(3, TYPICAL_COST), np.array([0.05, 0.3, 0.9]), several=True)
    assert (np.diff(falling) < -1).all()


def test_objects_of_a_job_follow_their_own_levels_a_little() -> None:
    rule = level_rule("vvc", 0.75)
    low, high = rule.job_levels(np.array([25.0, 45.0]), np.full(2, TYPICAL_COST), np.full(2, 0.5))
    assert 0 < high - low < 20 / 2


def test_cost_grows_with_texture_and_with_the_blocks_that_are_covered() -> None:
    rng = np.random.default_rng(0)
    rgb = np.full((256, 512, 3), 90, np.uint8)
    rgb[:, 256:] = rng.integers(0, 255, (256, 256, 1), np.uint8)
    boxes = np.array([[10.0, 10.0, 110.0, 110.0], [300.0, 10.0, 400.0, 110.0], [300.0, 10.0, 500.0, 210.0]])
    flat, rough, large = object_costs(rgb, boxes)
    assert 0 < flat < rough / 10
    assert large / rough == pytest.approx((264 / 164) ** 2, rel=0.1)
    outside = object_costs(rgb, np.array([[-50.0, -50.0, -10.0, -10.0], [600.0, 300.0, 700.0, 400.0]]))
    assert (outside > 0).all()
    assert np.isfinite(outside).all()
    blocks = block_costs(rgb)
    assert blocks.shape == (16, 32)
    assert blocks[:, 0].max() < blocks[:, -1].min() / 10


def test_between_fitted_ratios_levels_are_between() -> None:
    low, mid, high = (level_rule("vvc", r).own_levels([0.5], [0.2], several=True)[0] for r in (0.9, 0.8, 0.75))
    assert low < mid < high


def test_a_codec_without_labels_takes_those_of_vvc() -> None:
    assert level_rule("av1", 0.75).own_levels([0.5], [0.2]) == level_rule("vvc", 0.75).own_levels([0.5], [0.2])


@pytest.mark.parametrize(("ratio", "caution"), [(0.0, 0.25), (1.1, 0.25), (0.75, 0.0), (0.75, 2.0)])
def test_ratios_and_cautions_outside_are_refused(ratio: float, caution: float) -> None:
    with pytest.raises(InputError, match="must be above 0"):
        level_rule("vvc", ratio, caution)


def test_quantile_regression_leaves_its_share_below() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([np.ones(2000), rng.random(2000)], axis=1)
    y = 10 + 5 * x[:, 1] + rng.normal(0, 2, 2000)
    fitted = quantile_regression(x, y, 0.25)
    assert np.mean(y < x @ fitted) == pytest.approx(0.25, abs=0.01)
    assert fitted[1] == pytest.approx(5, abs=0.6)


def test_margins_are_a_share_of_the_side_and_at_least_some_pixels() -> None:
    around = Margin(1 / 8, 8).around(np.array([[100.0, 100.0, 180.0, 132.0]]))
    np.testing.assert_allclose(around, [[90, 92, 190, 140]])


def test_overlaps_take_the_lower_level_and_edges_are_kept() -> None:
    boxes = np.array([[-20.0, -20.0, 30.0, 30.0], [10.0, 10.0, 80.0, 25.5], [200.0, 5.0, 300.0, 9.0]])
    level = drawn(boxes, np.array([40.9, 30.2, 20.0]), 64, 48)
    assert level[0, 0] == 40
    assert level[20, 20] == level[25, 63] == 30
    assert level[26, 20] == 40
    assert level[40, 40] == BACKGROUND
    assert 20 not in level


def test_a_block_takes_the_lowest_level_that_it_touches() -> None:
    level = np.full((50, 70), BACKGROUND, np.uint8)
    level[31:33, 40] = 25
    blocks = block_levels(level, 32)
    assert blocks.tolist() == [[63, 25, 63], [63, 25, 63]]


def test_levels_fall_at_once_and_early_and_rise_late() -> None:
    looked = np.full((5, 1, 1), BACKGROUND, np.uint8)
    looked[2] = 30
    smooth = smooth_in_time(looked, [0, 4, 8, 12, 16], 17, hold=2)[:, 0, 0].tolist()
    # Seen at 8 only: fine from after the look before it to the look after it.
    assert smooth == [63] * 5 + [30] * 7 + [63] * 5


def test_small_rises_are_not_followed_and_blinking_is_bridged() -> None:
    looked = np.array([30, 63, 30, 32, 31, 40, 40, 40], np.uint8).reshape(-1, 1, 1)
    smooth = smooth_in_time(looked, range(8), 8, hold=1)[:, 0, 0].tolist()
    assert smooth == [30, 30, 30, 30, 30, 30, 40, 40]


def test_a_still_has_its_own_levels() -> None:
    looked = np.array([[[20, 63]]], np.uint8)
    assert smooth_in_time(looked, [0], 1, hold=10).tolist() == looked.tolist()


def capabilities(qp_max: int) -> Capabilities:
    return Capabilities("x", "1", 0, qp_max, False, "map", 64, ("yuv420p",), ())


def test_levels_become_qps_of_the_encoder() -> None:
    levels = np.array([[[3, 30, 60, BACKGROUND]]], np.uint8)
    planned = qp_map_of(levels, 256, 64, 64, 47, (0, 51))
    assert planned.map.qp[0, 0].tolist() == [8, 30, 47, 47]
    assert any("no level is predicted to reach the target in 1 blocks" in note for note in planned.notes)


@pytest.mark.parametrize(
    ("level", "told"), [(BACKGROUND, "no object was found"), (50, "recognised at the background's QP 47 already")]
)
def test_targets_that_need_nothing_are_said(level: int, told: str) -> None:
    planned = qp_map_of(np.full((1, 1, 2), level, np.uint8), 128, 64, 64, 47, (0, 51))
    assert planned.map.is_flat
    assert any(told in note for note in planned.notes)


def test_the_background_keeps_to_the_range() -> None:
    assert background_qp_of(None, capabilities(40)) == 40
    assert background_qp_of(None, capabilities(63)) == 45
    assert background_qp_of(47, capabilities(51)) == 47
    with pytest.raises(UnsupportedError, match="QP 60"):
        background_qp_of(60, capabilities(51))


def test_segments_that_objects_cover_are_coded_at_one_qp() -> None:
    levels = np.full((3, 2, 4), BACKGROUND, np.uint8)
    levels[0, 0] = 30  # half of the blocks
    levels[1, 0], levels[1, 1, 0] = [30, 30, 30, 40], 44
    levels[2] = 45  # objects, at the background's QP
    wanted = qp_map_of(levels, 256, 128, 64, 45, (0, 51))
    coded = without_needless_maps(wanted, [range(1), range(1, 2), range(2, 3)], 45)
    np.testing.assert_array_equal(coded.map.qp[[0, 2]], wanted.map.qp[[0, 2]])
    assert set(coded.map.qp[1].ravel().tolist()) == {35}
    assert coded.notes[0].startswith("1 of 3 segments are coded at one QP each: objects cover most of them")
    assert without_needless_maps(wanted, [range(1)], 45) is wanted
