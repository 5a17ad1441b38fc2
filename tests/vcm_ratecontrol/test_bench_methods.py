"""What methods choose from tables made by hand: no encoder, no machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import InputError
from vcm_ratecontrol.annotate.task import PictureTask
from vcm_ratecontrol.bench.catalogue import choose_methods, known_methods
from vcm_ratecontrol.bench.evaluate import Scores
from vcm_ratecontrol.bench.machine_sets import machine_sets
from vcm_ratecontrol.bench.methods import permuted, search_quality
from vcm_ratecontrol.bench.predicted import predicted_methods
from vcm_ratecontrol.bench.results import finite
from vcm_ratecontrol.bench.savings import FlatCurve, item_savings, saving_at, saving_near
from vcm_ratecontrol.bench.view import Prediction, View

LEVELS = np.arange(8.0, 63.0, 3.0)
N = 12


def view(*, known: bool = True, seed: int = 3, noise: float = 0.0) -> View:
    """Units whose SMR curves are one curve shifted, predicted perfectly but for `noise` QP."""
    rng = np.random.default_rng(seed)
    shifts = rng.normal(0, 6, N)
    smr = 1 / (1 + np.exp((LEVELS[None] - 38 - shifts[:, None]) / 4))
    told = 1 / (1 + np.exp((LEVELS[None] - 38 - (shifts + rng.normal(0, noise, N))[:, None]) / 4))
    bits = np.round(1e5 * rng.uniform(0.5, 2, (N, 1)) * 2 ** (-LEVELS[None] / 6))
    return View(
        levels=LEVELS,
        bits=bits,
        smr=smr,
        mean=smr.mean(axis=0),
        weights=np.full(N, 1 / N),
        quality={"vmaf": 100 - LEVELS[None] - rng.uniform(0, 5, (N, 1))},
        prediction=Prediction(told, bits * 1.3, np.full(N, 3.0), np.full(N, 0.1)),
        n_items=N,
        n_machines=10,
        known=known,
        works=tuple(PictureTask(f"{at}.png", str(at)) for at in range(N)),
        n_columns=len(LEVELS),
        seed=seed,
    )


def chosen(given: View, name: str, target: float, probes: int = 3) -> tuple[float, float, float]:
    """Mean SMR, bits and encodes per unit of a method's choice."""
    method = known_methods(probes)[name]
    choice = method.choose(given, target)
    assert choice.columns.shape == (N,)
    again = method.choose(given, target)
    assert (again.columns == choice.columns).all()
    rows = np.arange(N)
    smr, bits = given.smr[rows, choice.columns], given.bits[rows, choice.columns]
    return float(smr.mean()), float(bits.sum()), float(choice.encodes.sum(axis=1).mean())


@pytest.mark.parametrize("name", ["oracle-pooled", "smr-pooled-0", "smr-pooled-bits", "smr-pooled"])
def test_pooled_methods_meet_the_mean_in_fewer_bits_than_flat(name: str) -> None:
    given = view()
    smr, bits, _ = chosen(given, name, 0.9)
    assert smr >= 0.9 - 1e-9
    flat = max(level for level in range(len(LEVELS)) if given.smr[:, level].mean() >= 0.9)
    assert bits <= given.bits[:, flat].sum()


@pytest.mark.parametrize("name", ["oracle-each", "smr-each-0", "smr-each", "smr-measured"])
def test_each_meets_the_target_on_every_unit(name: str) -> None:
    given = view()
    columns = known_methods(3)[name].choose(given, 0.8).columns
    assert (given.smr[np.arange(N), columns] >= 0.8).all()
    oracle = known_methods()["oracle-each"].choose(given, 0.8).columns
    assert (columns <= oracle).all()


def test_the_oracle_codes_every_level_and_the_search_few() -> None:
    given = view()
    assert chosen(given, "oracle-each", 0.8)[2] == len(LEVELS)
    assert chosen(given, "smr-measured", 0.8)[2] <= 7
    assert chosen(given, "smr-pooled-0", 0.8)[2] == 1
    assert 1 <= chosen(given, "smr-pooled", 0.8)[2] <= 4


def test_predictions_of_other_pictures_cost_bits() -> None:
    given = view()
    honest, shuffled = chosen(given, "smr-pooled-0", 0.8), chosen(given, "smr-shuffled", 0.8)
    assert shuffled[0] < honest[0]
    assert sorted(map(tuple, permuted(given, given.smr))) == sorted(map(tuple, given.smr))
    assert (permuted(given, given.smr) != given.smr).any(axis=1).all()


def test_probes_by_machines_that_do_not_judge_are_trusted_in_part() -> None:
    """A prediction that is off is corrected in full only where the machines that probe are those that judge."""
    known, unseen = view(noise=8), view(noise=8, known=False)
    assert chosen(known, "smr-pooled", 0.9)[0] >= 0.9 - 1e-9
    assert chosen(unseen, "smr-pooled", 0.9)[2] <= 3


def test_random_levels_are_those_of_the_ceiling() -> None:
    given = view()
    methods = known_methods()
    dealt = methods["random-levels"].choose(given, 0.8).columns
    real = methods["pooled-other-machines"].choose(given, 0.8).columns
    assert sorted(dealt) == sorted(real)
    assert (dealt != real).any()


def test_a_quality_target_is_one_value_for_all_units() -> None:
    given = view()
    method = known_methods()["vmaf"]
    assert method.settings(given, [0.8]) == sorted(given.quality["vmaf"].mean(axis=0))
    choice = method.choose(given, 60.0)
    values = given.quality["vmaf"]
    assert (values[np.arange(N), choice.columns] >= 60).all()
    assert (values[np.arange(N), choice.columns + 1] < 60).all()
    assert choice.probed.sum(axis=1).max() <= 6


@pytest.mark.parametrize(("threshold", "level"), [(101.0, 0), (100.0, 0), (55.0, 4), (-1.0, 9)])
def test_the_quality_search_finds_the_highest_level(threshold: float, level: int) -> None:
    values = np.array([100.0, 90, 80, 70, 60, 50, 40, 30, 20, 10])
    probed = np.zeros(10, bool)
    assert search_quality(values, threshold, probed) == level
    assert 0 < probed.sum() <= 5


def test_methods_by_name_and_group() -> None:
    encoder = get_encoder("hevc")
    found = choose_methods(("oracles", "vmaf", "jrd", "oracle-each"), encoder, 3, None)
    assert [method.name for method in found.methods] == ["flat", "oracle-each", "oracle-pooled", "vmaf"]
    assert (found.metrics, found.objects, found.predictor) == (("vmaf",), ("jrd",), None)
    with pytest.raises(InputError, match="no method 'oracel'"):
        choose_methods(("oracel",), encoder, 3, None)
    assert [method.name for method in predicted_methods(0)] == [
        "smr-pooled-0",
        "smr-each-0",
        "smr-pooled-bits",
    ]


def scores(smr: list[float], bits: list[float]) -> Scores:
    item_smr, item_bits = np.array(smr), np.array(bits)
    nothing = {"classification": None, "detection": None, "kbps": None, "top1": None, "human": None}
    return Scores(
        columns=np.zeros(len(smr), np.intp), item_smr=item_smr, item_bits=item_bits, smr=float(item_smr.mean()),
        bits=float(item_bits.sum()), bpp=1.0, pseudo=None, quality={}, **nothing,
    )  # fmt: skip


FLAT = FlatCurve(tuple(scores([0.9 - 0.2 * at, 0.8 - 0.2 * at], [400 * 0.5**at, 800 * 0.5**at]) for at in range(4)))


def test_savings_at_and_between_operating_points() -> None:
    half = [scores([0.9 - 0.2 * at, 0.8 - 0.2 * at], [200 * 0.5**at, 400 * 0.5**at]) for at in range(3)]
    at_point = saving_at(FLAT, 1, half[1], 0, 100)
    assert at_point.matched is not None
    assert at_point.matched.saving.estimate == pytest.approx(50)
    between = saving_near(FLAT, half, 0.75, 0, 100)
    assert between is not None and between.matched is not None
    assert between.matched.saving.estimate == pytest.approx(50)
    assert between.matched.mean_smr == pytest.approx(0.75)
    assert item_savings(FLAT, half[0]) == pytest.approx([50, 50])
    # Beyond the end of a sweep there is no figure, and beyond the anchor's a reason.
    assert saving_near(FLAT, half[2:], 0.85, 0, 100) is None
    beyond = saving_at(FLAT, 0, scores([1.0, 1.0], [10.0, 10.0]), 0, 100)
    assert beyond.matched is None
    assert "no flat QP" in (beyond.error or "")


def test_json_never_holds_what_is_no_number() -> None:
    given = {"a": float("nan"), "b": [np.float64("inf"), np.array([1.0, np.nan])], 3: (np.int64(2), None, True)}
    assert finite(given) == {"a": None, "b": [None, [1.0, None]], "3": [2, None, True]}


def test_sides_of_a_library(machines_dir: Path) -> None:
    both = machine_sets(machines_dir, ["yolox_nano", "fastestdet"], None, None)
    assert both.known
    assert both.choosing == both.judging == ("yolox_nano", "fastestdet")
    rest = machine_sets(machines_dir, None, None, ["yolox_nano"])
    assert rest.judging == ("yolox_nano",)
    assert "yolox_nano" not in rest.choosing
    assert len(rest.choosing) == 30
    divided = machine_sets(machines_dir, None, "hash", None)
    assert not set(divided.choosing) & set(divided.judging)
    assert len(divided.choosing) + len(divided.judging) == 31
    two = machine_sets(machines_dir, ["yolox_nano"], str(machines_dir), ["fastestdet"])
    assert (two.choosing, two.judging, len(two.libraries)) == (("yolox_nano",), ("fastestdet",), 2)
    detectors = machine_sets(machines_dir, None, None, None, "detection")
    assert "tinymaix_mbnet128_0.25" not in detectors.choosing


@pytest.mark.parametrize(
    ("names", "judge", "judge_names", "message"),
    [
        (None, "hash", ["yolox_nano"], "divides the library itself"),
        (["nobody"], None, None, "no machine 'nobody'"),
        (None, None, ["nobody"], "no machine 'nobody'"),
        (None, "/no/such/library", None, "no such machine library"),
    ],
)
def test_sides_that_cannot_be(
    machines_dir: Path, names: list[str] | None, judge: str | None, judge_names: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        machine_sets(machines_dir, names, judge, judge_names)
