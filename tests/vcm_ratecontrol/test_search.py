"""The measured-mode QP search on step curves, on any curve at all, and on curves like the pilot's."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from vcm_ratecontrol.ratecontrol.search import QpSearch, SearchResult, SmrSample
from vcm_ratecontrol.ratecontrol.shift import pilot_mean_curve

LEVELS = np.arange(64)
Measure = Callable[[int], SmrSample]


def run(search: QpSearch, measure: Measure) -> SearchResult:
    asked: list[int] = []
    while (qp := search.next_probe()) is not None:
        assert search.next_probe() == qp, "asking twice gives the same answer"
        assert qp not in asked, "no QP is measured twice"
        assert search.lo <= qp <= search.hi
        asked.append(qp)
        assert len(asked) <= search.max_probes
        search.tell(qp, measure(qp))
    result = search.best()
    assert [probe.qp for probe in result.probes] == asked
    return result


def check_rule(result: SearchResult, target: float) -> None:
    """What the module promises of every result, read from its probes alone."""
    smr = {probe.qp: probe.smr for probe in result.probes}
    assert result.smr == smr[result.qp]
    met = {qp for qp, value in smr.items() if value >= target - 1e-9}
    lasting = {qp for qp in met if all(other in met for other in smr if other < qp)}
    assert result.reached == bool(met) and result.lasting == bool(lasting)
    if lasting:
        assert result.qp == max(lasting)
    elif met:
        assert result.qp == min(met)
    else:
        assert result.smr == max(smr.values())


def of_curve(curve: np.ndarray, lo: int = 0) -> Measure:
    return lambda qp: SmrSample(float(curve[qp - lo]))


priors = st.none() | st.lists(st.floats(0, 1), min_size=64, max_size=64) | st.just(pilot_mean_curve(LEVELS))


@given(
    crossing=st.integers(-1, 63),
    prior=priors,
    margins=st.lists(st.floats(-1, 1), min_size=64 * 3, max_size=64 * 3) | st.none(),
    confirm=st.integers(0, 3),
    target=st.floats(0.01, 1),
)
@settings(max_examples=300, deadline=None)
@example(crossing=-1, prior=None, margins=None, confirm=1, target=0.9)
@example(crossing=63, prior=None, margins=None, confirm=1, target=0.9)
def test_exact_on_every_step_curve_in_seven_probes_whatever_the_guesses(
    crossing: int, prior: list[float] | None, margins: list[float] | None, confirm: int, target: float
) -> None:
    """65 answers, 7 probes: neither a wrong prior nor margins that lie may cost the exact answer."""
    step = np.where(crossing >= LEVELS, 1.0, 0.0)

    def measure(qp: int) -> SmrSample:
        return SmrSample(step[qp], () if margins is None else tuple(margins[3 * qp : 3 * qp + 3]))

    result = run(QpSearch(target, prior=prior, confirm=confirm), measure)
    assert result.exact and result.reached == (crossing >= 0)
    assert result.qp == crossing or not result.reached
    check_rule(result, target)


@pytest.mark.parametrize("prior", [None, pilot_mean_curve(LEVELS), np.ones(64), np.zeros(64)])
def test_all_65_step_curves(prior: np.ndarray | None) -> None:
    for crossing in range(-1, 64):
        result = run(QpSearch(0.9, prior=prior), of_curve(np.where(crossing >= LEVELS, 1.0, 0.5)))
        assert result.exact and result.reached == (crossing >= 0)
        assert result.qp == crossing or not result.reached


@given(
    curve=st.lists(st.integers(0, 8).map(lambda k: k / 8), min_size=64, max_size=64),
    target=st.floats(0, 1),
    max_probes=st.integers(1, 9),
    confirm=st.integers(0, 3),
    tolerance=st.integers(1, 6),
    prior=priors,
)
@settings(max_examples=300, deadline=None)
def test_any_curve_ends_within_the_probes_and_keeps_the_rule(
    curve: list[float], target: float, max_probes: int, confirm: int, tolerance: int, prior: list[float] | None
) -> None:
    search = QpSearch(target, max_probes=max_probes, confirm=confirm, tolerance=tolerance, prior=prior)
    check_rule(run(search, of_curve(np.array(curve))), target)


@given(lo=st.integers(0, 40), width=st.integers(0, 23), crossing=st.integers(-1, 63))
@settings(deadline=None)
def test_other_ranges(lo: int, width: int, crossing: int) -> None:
    hi = lo + width
    levels = np.arange(lo, hi + 1)
    curve = np.where(crossing >= levels, 0.95, 0.85)
    result = run(QpSearch(0.9, lo, hi, prior=pilot_mean_curve(levels)), of_curve(curve, lo))
    assert result.exact and result.reached == (crossing >= lo)
    assert result.qp == min(crossing, hi) or not result.reached


def test_a_spike_above_a_failure_is_not_trusted() -> None:
    # Nobody is satisfied from 30 on, but for one lucky QP, where the first probe happens to fall.
    curve = np.where(LEVELS < 30, 1.0, 0.0)
    curve[36] = 1.0
    search = QpSearch(0.9)
    search.tell(36, SmrSample(1.0))
    while (qp := search.next_probe()) is not None:
        search.tell(qp, SmrSample(float(curve[qp])))
    result = search.best()
    assert 35 in {probe.qp for probe in result.probes}, "the QP below the accepted one is checked"
    assert result.lasting and result.qp < 30 and len(result.probes) <= 7


def test_a_spike_alone_is_returned_and_marked() -> None:
    search = QpSearch(0.9, max_probes=2)
    search.tell(40, SmrSample(1.0))
    search.tell(39, SmrSample(0.2))
    result = search.best()
    assert (result.qp, result.reached, result.lasting, result.exact) == (40, True, False, False)


def test_never_reached_gives_the_best_effort() -> None:
    # Small classifiers flip on near ties even at QP 8: the curve tops out below the target.
    curve = 0.94 * pilot_mean_curve(LEVELS) / 0.98
    result = run(QpSearch(0.95, prior=pilot_mean_curve(LEVELS)), of_curve(curve))
    assert not result.reached and not result.lasting and len(result.probes) <= 7
    assert result.smr == max(probe.smr for probe in result.probes)
    # Of equal SMR the highest QP: nothing is bought by going lower.
    flat = run(QpSearch(0.95), of_curve(np.full(64, 0.5)))
    assert flat.qp == max(probe.qp for probe in flat.probes)


def test_nine_of_ten_meets_nine_tenths() -> None:
    search = QpSearch(0.9)
    search.tell(30, SmrSample(1 - 0.1))
    assert search.best().reached
    search = QpSearch(0.3)
    search.tell(30, SmrSample(0.1 * 3))
    assert search.best().reached


def test_bad_values_are_refused() -> None:
    for arguments in ((1.1,), (-0.1,), (float("nan"),), (0.9, 5, 4)):
        with pytest.raises(InputError):
            QpSearch(*arguments)
    with pytest.raises(InputError, match="at least 1"):
        QpSearch(0.9, max_probes=0)
    with pytest.raises(InputError, match="one per QP"):
        QpSearch(0.9, prior=np.ones(10))
    search = QpSearch(0.9)
    with pytest.raises(InputError, match="call tell"):
        search.best()
    with pytest.raises(InputError, match="outside 0"):
        search.tell(64, SmrSample(1.0))
    with pytest.raises(InputError, match="SMR nan"):
        search.tell(3, SmrSample(float("nan")))


def pictures(count: int, machines: int = 10) -> list[tuple[np.ndarray, np.ndarray]]:
    """(SMR [64], margins [machines, 64]) as the pilot has them: the mean curve shifted by about 5 QP, machines
    that fail one after the other, noise of 1.5 QP at every level, so that curves dip and tie; half of the
    margins come in the steps of a detection score of few objects."""
    rng = np.random.default_rng(1)
    mean = pilot_mean_curve(LEVELS)
    made = []
    for _ in range(count):
        fails_at = np.interp(rng.random(machines), 1 - mean, LEVELS)
        fails_at = 41 + 0.75 * (fails_at - 41) + rng.normal(0, 5)
        noise = rng.normal(0, 1.5, (machines, 64))
        margins = np.tanh((fails_at[:, None] - LEVELS + noise) / rng.uniform(6, 14, (machines, 1))) / 2
        half = machines // 2
        margins[:half] = np.round(margins[:half] * 6) / 6 + 1e-3 * np.sign(margins[:half])
        made.append(((margins >= 0).mean(0), margins))
    return made


@pytest.mark.parametrize("target", [0.8, 0.9])
def test_simulated_pictures(target: float) -> None:
    """Measured when this was written: 4.5 (0.8) and 4.7 (0.9) probes, 0.4 QP above the first failure, SD 1."""
    probes, above_lasting, reachable = [], [], 0
    for smr, margins in pictures(250):
        search = QpSearch(target, prior=pilot_mean_curve(LEVELS), confirm=0)
        result = run(search, lambda qp, s=smr, m=margins: SmrSample(float(s[qp]), tuple(m[:, qp])))
        check_rule(result, target)
        probes.append(len(result.probes))
        failing = np.flatnonzero(smr < target - 1e-9)
        if failing[0] > 0:
            reachable += 1
            assert result.reached
            above_lasting.append(result.qp - (failing[0] - 1))
    assert reachable > 240 and np.mean(probes) < 5.0
    assert abs(np.mean(above_lasting)) < 0.8 and np.std(above_lasting) < 1.5
    assert np.median(above_lasting) == 0


def test_a_confirming_probe_brings_the_answer_nearer_to_the_lasting_one() -> None:
    errors: dict[int, list[int]] = {0: [], 1: []}
    for smr, margins in pictures(250):
        lasting = np.flatnonzero(smr < 0.9 - 1e-9)[0] - 1
        for confirm, found in errors.items():
            search = QpSearch(0.9, prior=pilot_mean_curve(LEVELS), confirm=confirm)
            result = run(search, lambda qp, s=smr, m=margins: SmrSample(float(s[qp]), tuple(m[:, qp])))
            found.append(abs(result.qp - lasting))
    assert np.mean(errors[1]) < np.mean(errors[0])
