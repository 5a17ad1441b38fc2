"""The rules of planning and probing, on items whose true curves are known: no encoder, no network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from codec_wrappers.errors import InputError
from vcm_ratecontrol.ratecontrol.planning import (
    Curves,
    Pool,
    ProbePoint,
    Target,
    contradicts,
    joined,
    lowered,
    plan,
    refined,
    replan,
    with_margin,
)
from vcm_ratecontrol.ratecontrol.rounds import Rounds
from vcm_ratecontrol.ratecontrol.shift import pilot_mean_curve, shift_curve
from vcm_ratecontrol.scoring import Tasks

QPS = np.arange(64)
MEAN = Target(0.8, pool="mean")
EACH = Target(0.8, pool="each")


def curves_of(shifts: Sequence[float], seen: Sequence[bool] | None = None) -> Curves:
    """Items whose SMR curves are the mean curve moved by `shifts`, all of 1000 frames' worth of bits."""
    grid = QPS.astype(float)
    smr, low, high = (
        np.stack([shift_curve(pilot_mean_curve(grid), grid, d + off) for d in shifts]) for off in (0, -6, 6)
    )
    bits = np.stack([1e6 * 2.0 ** (-(grid + d / 2) / 6) for d in shifts])
    n = len(shifts)
    visible = np.ones(n, bool) if seen is None else np.array(seen)
    return Curves(QPS, smr, low, high, bits, np.full(n, 5.0), np.zeros(n), np.zeros(n, int), np.ones(n), visible)


@dataclass(frozen=True)
class Told:
    """A probe that says what a table says."""

    value: float | None
    bits: int

    def smr(self, task: Tasks) -> float | None:
        return self.value


class World:
    """What probing finds; counts the probes."""

    def __init__(self, truth: Curves, noise: float = 0.0, steps: int | None = None, seed: int = 1) -> None:
        draw = np.random.default_rng(seed)
        self.smr = np.clip(truth.smr + noise * draw.standard_normal(truth.smr.shape), 0, 1)
        if steps is not None:  # so many machines
            self.smr = np.round(self.smr * steps) / steps
        self.bits = truth.bits * 1.3
        self.asked: list[tuple[int, int]] = []

    def probe(self, wanted: Sequence[tuple[int, int]]) -> list[Told]:
        self.asked += wanted
        return [Told(float(self.smr[item, qp]), round(self.bits[item, qp])) for item, qp in wanted]


def mean_of(world: World, qps: np.ndarray) -> float:
    return float(world.smr[np.arange(len(qps)), qps].mean())


def test_a_margin_is_kept_as_far_as_nobody_makes_up_for_a_hopeful_prediction() -> None:
    curves = curves_of([-8, 0, 3, 9])
    plain = plan(curves, EACH).qps
    np.testing.assert_array_equal(plain - plan(with_margin(curves, EACH, 4), EACH).qps, 4)  # 0.8 of 5 QPs
    alone, four = (plan(with_margin(curves, MEAN, files), MEAN).qps.mean() for files in (1, 4))
    assert alone < four < plan(curves, MEAN).qps.mean()
    np.testing.assert_array_equal(with_margin(curves, MEAN, 1).smr, curves.smr)  # what is told is not lowered


@pytest.mark.parametrize("pool", ["each", "mean"])
def test_a_target_is_reached_where_the_prediction_says_so_without_its_margin(pool: Pool) -> None:
    curves = curves_of([0.0])
    target = Target(float(curves.smr.max()), pool=pool)
    settled = Rounds(with_margin(curves, target, 1), target, World(curves).probe, judges=False).run(0)
    assert settled.reached.all()
    assert settled.qps[0] == 0
    lower = replace(curves, smr=curves.smr * 0.5)
    settled = Rounds(with_margin(lower, target, 1), target, World(lower).probe, judges=False).run(0)
    assert not settled.reached.any()


def test_what_machines_say_beyond_the_shift_counts_nearby_too() -> None:
    """A flat curve that is known well moves little, however much better it is measured: the next probe shall not."""
    flat = curves_of([0.0])
    flat = replace(flat, smr=0.9 - 0.01 * QPS[None], deviation=np.array([2.0]))
    truth = replace(flat, smr=(flat.smr + 0.16).clip(0, 1))
    best = int(np.flatnonzero(truth.smr[0] >= MEAN.smr)[-1])
    world = World(truth)
    rounds = Rounds(flat, MEAN, world.probe, judges=True, look_again=world.probe)
    settled = rounds.run(3)
    assert settled.reached.all()
    assert (plan(flat, MEAN).qps[0] + best) / 2 < settled.qps[0] <= best  # by the shift alone: no way at all
    moved, shifted = (
        refined(flat, [{20: ProbePoint(20, 0.86, 1000)}], judges=True, nearby=nearby).smr[0] for nearby in (True, False)
    )
    assert moved[20] == shifted[20] == pytest.approx(0.86)
    gained = moved - flat.smr[0]
    assert gained[24] > (shifted - flat.smr[0])[24] + 0.03
    assert gained[20] > gained[28] > gained[36] > gained[60] >= 0


def test_a_margin_ends_where_the_labels_end() -> None:
    curves = curves_of([0.0])
    plain, safe = plan(curves, EACH).qps[0], plan(with_margin(curves, EACH, 1), EACH).qps[0]
    for known, wanted in ((0, safe), (plain - 1, plain - 2), (plain + 5, plain)):
        ended = replace(with_margin(curves, EACH, 1), known=np.array([known]))
        assert plan(ended, EACH).qps[0] == wanted


def test_the_last_correction_keeps_the_margin() -> None:
    """A plan over what is coded is lowered by the curves as plans take them."""
    curves = with_margin(curves_of([0.0]), MEAN, 1)
    wanted = plan(curves, MEAN).qps
    assert lowered(curves, MEAN, wanted + 3, MEAN.smr) == wanted


def test_a_right_prediction_costs_one_probe_each() -> None:
    truth = curves_of([-8, 0, 3, 9])
    for target in (EACH, MEAN):
        world = World(truth)
        settled = Rounds(truth, target, world.probe, judges=False).run(2)
        assert sorted(item for item, _ in world.asked) == [0, 1, 2, 3]
        assert settled.reached.all()
        np.testing.assert_array_equal(settled.qps, plan(truth, target).qps)


def test_probes_of_a_predictor_move_the_plan_and_are_few() -> None:
    rng = np.random.default_rng(0)
    believed, truth = curves_of([0.0] * 20), curves_of(list(rng.normal(0, 5, 20)))
    for target in (EACH, MEAN):
        world = World(truth)
        settled = Rounds(believed, target, world.probe, judges=False).run(2)
        assert max(len(points) for points in settled.probes) <= 2
        blind = plan(believed, target).qps
        missed = np.abs(truth.smr[np.arange(20), settled.qps] - 0.8).mean()
        assert target.pool == "mean" or missed < np.abs(truth.smr[np.arange(20), blind] - 0.8).mean()
        # Most final QPs are coded already, which is what keeps the whole below two encodes.
        encodes = len(world.asked) + sum(
            qp not in points for qp, points in zip(settled.qps, settled.probes, strict=True)
        )
        assert encodes <= (2 if target.pool == "mean" else 2.5) * 20


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_machines_that_judge_prove_the_mean(target: float) -> None:
    rng = np.random.default_rng(2)
    believed, truth = curves_of([0.0] * 15), curves_of(list(rng.normal(-2, 6, 15)))
    world = World(truth, noise=0.1, steps=10)
    settled = Rounds(believed, Target(target, pool="mean"), world.probe, judges=True).run(3)
    assert settled.reached.all()
    assert all(int(qp) in points for qp, points in zip(settled.qps, settled.probes, strict=True))
    assert mean_of(world, settled.qps) >= target - 1e-9
    # Exploring pays: fewer bits than any flat QP that meets the target as measured.
    flat = max(qp for qp in range(64) if world.smr[:, qp].mean() >= target)
    assert world.bits[np.arange(15), settled.qps].sum() < world.bits[:, flat].sum()


def test_the_floor_holds_for_what_was_measured() -> None:
    truth = curves_of([-12, -6, 0, 6, 12])
    world = World(truth, steps=20)
    settled = Rounds(curves_of([0.0] * 5), Target(0.8, pool="mean", floor=0.7), world.probe, judges=True).run(3)
    assert settled.reached.all()
    assert (world.smr[np.arange(5), settled.qps] >= 0.7 - 1e-9).all()


def test_a_target_out_of_reach_is_a_best_effort() -> None:
    truth = curves_of([-30.0] * 3)
    for judges in (False, True):
        world = World(truth)
        settled = Rounds(curves_of([0.0] * 3), Target(0.99, pool="mean"), world.probe, judges=judges).run(3)
        assert not settled.reached.any()
        assert (settled.qps <= 8).all()


def test_no_probes_trust_the_curves_and_what_is_blind_is_never_probed() -> None:
    truth = curves_of([-5, 0, 5], seen=[True, False, True])
    world = World(truth)
    trusted = Rounds(truth, MEAN, world.probe, judges=False).run(0)
    assert world.asked == []
    np.testing.assert_array_equal(trusted.qps, plan(truth, MEAN).qps)
    settled = Rounds(truth, MEAN, world.probe, judges=True).run(3)
    assert {item for item, _ in world.asked} == {0, 2}
    # The blind item stands where its own curve meets the target, and counts in no mean.
    assert settled.qps[1] == plan(truth, EACH).qps[1]
    assert world.smr[[0, 2], settled.qps[[0, 2]]].mean() >= 0.8 - 1e-9


def test_a_job_in_which_nothing_is_seen_asks_nobody() -> None:
    blind = curves_of([-5, 0], seen=[False, False])
    world = World(blind)
    settled = Rounds(blind, MEAN, world.probe, judges=True).run(3)
    assert world.asked == []
    np.testing.assert_array_equal(settled.qps, plan(blind, EACH).qps)


def test_contradictory_predictions_take_the_safe_side() -> None:
    curves = curves_of([0.0])
    rising = {30: ProbePoint(30, 0.5, 1000), 36: ProbePoint(36, 0.9, 800)}
    assert contradicts(rising)
    assert not contradicts({30: ProbePoint(30, 0.9, 1000), 36: ProbePoint(36, 0.5, 800)})
    safe = refined(curves, [rising], judges=False)
    both_low = refined(curves, [{**rising, 36: ProbePoint(36, 0.5, 800)}], judges=False)
    np.testing.assert_allclose(safe.smr, both_low.smr)
    told: Callable[[Sequence[tuple[int, int]]], list[Told]] = lambda wanted: [  # noqa: E731
        Told(0.2 if qp < 34 else 0.75, 1000) for _, qp in wanted
    ]
    assert Rounds(curves, EACH, told, judges=False).run(2).contradictory <= 1


def test_bits_go_through_the_probes_and_fall() -> None:
    curves = curves_of([0.0, 4.0])
    points = [{30: ProbePoint(30, None, 5000), 40: ProbePoint(40, None, 4000)}, {}]
    bits = refined(curves, points, judges=False).bits
    assert bits[0, 30] == pytest.approx(5000)
    assert bits[0, 40] == pytest.approx(4000)
    assert (np.diff(np.delete(bits[0], [30, 40])) <= 0).all()
    np.testing.assert_allclose(bits[1], curves.bits[1])


def test_a_near_probe_is_kept_while_the_target_is_met() -> None:
    curves = curves_of([0.0, 0.0, 0.0])
    free = plan(curves, EACH).qps
    probed = [{int(free[0]) - 1: ProbePoint(int(free[0]) - 1, None, 10_000)}, {}, {}]
    assert replan(curves, EACH, probed).qps[0] == free[0] - 1
    above = [{int(free[0]) + 1: ProbePoint(int(free[0]) + 1, None, 10_000)}, {}, {}]
    assert replan(curves, EACH, above).qps[0] == free[0]
    assert replan(curves, MEAN, above).reached.all()


def test_lowering_stops_at_the_target() -> None:
    curves = curves_of([0.0, 5.0, -5.0])
    high = np.array([50, 50, 50])
    qps = lowered(curves, MEAN, high, 0.8)
    assert (qps <= high).all()
    assert curves.smr[np.arange(3), qps].mean() >= 0.8 - 1e-6
    np.testing.assert_array_equal(lowered(curves, MEAN, qps, 0.8), qps)


def test_lowering_goes_no_lower_than_where_a_curve_ends() -> None:
    curves = curves_of([0.0, 5.0])
    flat = [np.minimum(values, values[:, 20:21]) for values in (curves.smr, curves.bits)]
    ends = replace(curves, smr=flat[0], bits=flat[1])
    np.testing.assert_array_equal(lowered(ends, MEAN, np.array([50, 50]), 1.0), [20, 20])


def test_curves_of_files_are_joined_and_picked() -> None:
    parts = [curves_of([0.0, 1.0]), curves_of([2.0])]
    whole = joined(parts)
    assert len(whole) == 3
    np.testing.assert_array_equal(whole.pick([2]).smr, parts[1].smr)


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (Target(1.2), "--target-smr"),
        (Target(float("nan")), "--target-smr"),
        (Target(0.5, floor=0.6), "--floor"),
        (Target(0.5, pool="each", floor=0.1), "--floor"),
    ],
)
def test_targets_that_cannot_be(target: Target, word: str) -> None:
    with pytest.raises(InputError, match=word):
        target.check()


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_what_a_sample_of_frames_says_is_checked_on_others(target: float) -> None:
    """Single frames are lucky or not; the plan that is kept meets the target on frames that did not choose."""
    rows, costs, true = np.arange(12), [], []
    for seed in range(12):
        shifts = list(np.random.default_rng(seed).normal(0, 5, 12))
        believed, truth = curves_of([0.0] * 12), curves_of(shifts)
        first, second = (World(truth, noise=0.05, seed=2 * seed + look) for look in (0, 1))
        aim = Target(target, pool="mean")
        settled = Rounds(believed, aim, first.probe, judges=True, look_again=second.probe).run(3)
        assert settled.reached.all()
        assert mean_of(second, settled.qps) >= target - 1e-9
        best = plan(truth, aim)
        costs.append(second.bits[rows, settled.qps].sum() / second.bits[rows, best.qps].sum())
        true.append(truth.smr[rows, settled.qps].mean())
    assert np.mean(costs) < 1.2
    assert np.mean(true) > target - 0.015


def test_what_was_looked_at_twice_is_what_other_frames_say() -> None:
    curves = curves_of([0.0])
    qp = int(plan(curves, MEAN).qps[0])
    lucky, others = World(curves), World(curves)
    lucky.smr[:], others.smr[:] = 0.9, 0.8
    settled = Rounds(curves, MEAN, lucky.probe, judges=True, look_again=others.probe).run(1)
    assert settled.reached.all()
    assert settled.qps[0] == qp
    assert settled.probes[0][qp].value == pytest.approx(0.8)
    settled = Rounds(curves, MEAN, lucky.probe, judges=True, look_again=lambda w: [Told(None, 1) for _ in w]).run(1)
    assert settled.reached.all()
    assert settled.probes[0][qp].value == pytest.approx(0.9)


def test_a_target_that_other_frames_never_meet_is_said_to_be_missed() -> None:
    believed = curves_of([0.0] * 4)
    lucky, others = World(curves_of([20.0] * 4)), World(curves_of([-60.0] * 4))
    settled = Rounds(believed, Target(0.9, pool="mean"), lucky.probe, judges=True, look_again=others.probe).run(2)
    assert not settled.reached.any()
