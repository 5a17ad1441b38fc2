"""The whole benchmark on real pictures, encoders and machines: figures, resuming, coding per object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.vcm_ratecontrol.bench_runs import CHOOSING, JUDGING, LEVELS, run, small_pictures, unseen, without_times
from vcm_ratecontrol.bench.items import Selection
from vcm_ratecontrol.bench.machine_sets import machine_sets
from vcm_ratecontrol.bench.markdown import markdown_tables
from vcm_ratecontrol.bench.results import document
from vcm_ratecontrol.bench.run import BenchRun

METHODS = ("smr", "smr-measured", "oracles", "psnr", "vmaf", "controls")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pictures(asset: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pictures(asset("images"), tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def bench(pictures: Path, machines_dir: Path, cache: Path) -> BenchRun:
    return run([pictures], unseen(machines_dir), cache, methods=METHODS)


def test_every_method_is_measured_against_the_flat_anchor(bench: BenchRun) -> None:
    (codec,) = bench.codecs
    assert (codec.measured, codec.unavailable) == (3 * len(LEVELS), {})
    assert len(codec.table.items) == 3
    methods = {method.method.name: method for method in codec.methods}
    assert next(iter(methods)) == "flat"
    assert {"smr-pooled", "smr-each-0", "vmaf", "smr-shuffled", "oracle-pooled"} <= methods.keys()
    bits = [point.scores.bits for point in methods["flat"].points]
    assert bits == sorted(bits)
    smr = [point.scores.smr for point in methods["flat"].points]
    assert smr[-1] > smr[0]
    for method in codec.methods:
        for point in method.points:
            assert 0 <= point.scores.smr <= 1
            assert np.isclose(point.scores.item_smr.mean(), point.scores.smr)
            assert 1 <= point.encodes <= len(LEVELS)
            assert point.seconds > 0
    assert all(point.encodes == len(LEVELS) for point in methods["oracle-each"].points)
    assert all(point.encodes == 1 for point in methods["smr-pooled-0"].points)
    assert all(point.encodes <= len(LEVELS) - 1 for point in methods["vmaf"].points)


def test_an_anchor_saves_nothing_against_itself(bench: BenchRun) -> None:
    flat = bench.codecs[0].methods[0]
    for saving in flat.near.values():
        if saving is not None and saving.matched is not None:
            assert saving.matched.saving.estimate == pytest.approx(0, abs=1e-6)


def test_with_known_machines_the_oracle_never_needs_more_than_flat(
    pictures: Path, machines_dir: Path, cache: Path
) -> None:
    sets = machine_sets(machines_dir, (*CHOOSING, *JUDGING), None, None)
    found = run([pictures], sets, cache, methods=("oracle-pooled",))
    (codec,) = found.codecs
    assert codec.measured == 0  # the same machines looked before, in other roles
    assert found.shared == ()
    by_target = {point.setting: point.scores for point in codec.methods[1].points}
    for scores in codec.flat.scores:
        for target, chosen in by_target.items():
            if scores.smr >= target - 1e-9 and chosen.smr >= target - 1e-9:
                assert chosen.bits <= scores.bits


def test_the_same_command_goes_on_from_its_records_and_says_the_same(
    bench: BenchRun, pictures: Path, machines_dir: Path, cache: Path
) -> None:
    again = run([pictures], unseen(machines_dir), cache, methods=METHODS)
    assert again.codecs[0].measured == 0
    assert without_times(document(again)) == without_times(document(bench))


def test_coding_per_object_with_its_controls(pictures: Path, machines_dir: Path, cache: Path) -> None:
    given = sorted(pictures.glob("0000*.png"))[:2]
    found = run(
        given, unseen(machines_dir), cache, methods=("objects",), codecs=("hevc-kvazaar", "hevc"), levels=(24, 51)
    )
    kvazaar, x265 = found.codecs
    methods = {method.method.name: method for method in kvazaar.methods}
    assert methods.keys() == {"flat", "jrd", "jrd-uniform", "jrd-random"}
    assert kvazaar.table.n_columns == 2 + 6
    assert all(column >= 2 for point in methods["jrd"].points for column in point.scores.columns)
    assert all(column < 2 for point in methods["jrd-uniform"].points for column in point.scores.columns)
    # What no encoder but one with block QPs can do is said, the rest is done.
    assert x265.unavailable.keys() == {"jrd", "jrd-random"}
    assert "hevc-kvazaar" in x265.unavailable["jrd"]
    tables = markdown_tables(document(found))
    assert "per object" in tables
    assert "`jrd-uniform`" in tables


def test_human_boxes_are_found_less_often_at_a_high_qp(
    asset: Callable[[str], Path], machines_dir: Path, cache: Path
) -> None:
    """Boxes of the annotations follow the pictures when these are scaled down."""
    annotations = asset("annotations/coco_subset_instances.json")
    photos = [asset(f"images/coco/train2017_{number:012d}.jpg") for number in (30, 49, 81)]
    sets = machine_sets(machines_dir, ("yolo_fastestv2", "fastestdet"), None, None)
    found = run(photos, sets, cache, levels=(20, 50), annotations=(annotations,), selection=Selection(max_side=256))
    low, high = found.codecs[0].flat.scores
    assert low.human is not None and high.human is not None
    assert 0.1 < low.human[0] <= 1
    assert high.human[0] < low.human[0]
    assert low.human[1] < low.human[0]
    assert found.warnings == ()
