"""The whole benchmark on real pictures, encoders and machines: figures, resuming, what is left out, and the report."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.errors import InputError
from tests.vcm_ratecontrol.bench_runs import CHOOSING, JUDGING, LEVELS, run, small_pictures, unseen, without_times
from vcm_ratecontrol.bench.machine_sets import machine_sets
from vcm_ratecontrol.bench.markdown import markdown_tables
from vcm_ratecontrol.bench.results import csv_text, document, json_text
from vcm_ratecontrol.bench.run import BenchRun
from vcm_ratecontrol.bench.writing import read_results, write_results

METHODS = ("smr", "smr-measured", "oracles", "pooled-blind", "pooled-other-machines", "psnr", "vmaf", "controls")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pictures(asset: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_pictures(asset("images"), tmp_path_factory.mktemp("data") / "pictures")
    names = sorted(folder.iterdir())
    (folder / "again.png").write_bytes(names[0].read_bytes())
    (folder / "broken.png").write_bytes(names[1].read_bytes()[:2000])
    return folder


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


def test_what_cannot_take_part_is_told_and_left_out(bench: BenchRun) -> None:
    reasons = {item.name: item.reason for item in bench.left_out}
    assert reasons.keys() == {"again.png", "broken.png"} or reasons.keys() == {"000000052891.png", "broken.png"}
    assert "same content" in next(reason for name, reason in reasons.items() if name != "broken.png")


def test_the_same_command_goes_on_from_its_records_and_says_the_same(
    bench: BenchRun, pictures: Path, machines_dir: Path, cache: Path
) -> None:
    again = run([pictures], unseen(machines_dir), cache, methods=METHODS)
    assert again.codecs[0].measured == 0
    assert without_times(document(again)) == without_times(document(bench))


def test_an_item_that_one_method_cannot_do_is_left_out_of_all(
    pictures: Path, machines_dir: Path, cache: Path, tmp_path: Path
) -> None:
    """SSIM has no value below 11 samples."""
    tiny = tmp_path / "tiny.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(tiny)
    given = [tiny, *sorted(pictures.glob("0000*.png"))[:2]]
    (codec,) = run(given, unseen(machines_dir), cache, methods=("ssim", "oracle-each"), levels=LEVELS[::3]).codecs
    assert [item.name for item in codec.left_out] == ["tiny.png"]
    assert "SSIM" in codec.left_out[0].reason
    assert len(codec.table.items) == 2
    assert all(len(point.scores.item_smr) == 2 for method in codec.methods for point in method.points)


def test_an_item_without_a_valid_machine_is_left_out_and_counted(
    pictures: Path, machines_dir: Path, cache: Path, tmp_path: Path
) -> None:
    gray = tmp_path / "gray.png"
    Image.new("RGB", (96, 96), (127, 127, 127)).save(gray)
    given = [gray, *sorted(pictures.glob("0000*.png"))[:2]]
    sets = machine_sets(machines_dir, CHOOSING, None, ("fastestdet",))
    (codec,) = run(given, sets, cache, levels=LEVELS[::3]).codecs
    reasons = {item.name: item.reason for item in codec.left_out}
    assert "gray.png" in reasons
    assert "no valid judging machine" in reasons["gray.png"]
    assert len(codec.table.items) + len(reasons) == 3


def test_nothing_left_is_an_error(machines_dir: Path, cache: Path, tmp_path: Path) -> None:
    gray = tmp_path / "gray.png"
    Image.new("RGB", (96, 96), (127, 127, 127)).save(gray)
    sets = machine_sets(machines_dir, ("fastestdet",), None, None)
    with pytest.raises(InputError, match="no item has a valid choosing and judging machine"):
        run([gray], sets, cache, levels=LEVELS[::3])


def test_a_judge_that_chooses_as_well_is_warned_of(pictures: Path, machines_dir: Path, cache: Path) -> None:
    sets = machine_sets(machines_dir, CHOOSING, None, (*JUDGING, CHOOSING[0]))
    found = run([pictures], sets, cache)
    assert found.shared == (CHOOSING[0],)
    assert found.codecs[0].measured == 0  # the machines are the same, in another order
    assert CHOOSING[0] in found.warnings[0]


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


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.links: list[str] = []
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._heading = tag in ("h1", "h2", "h3")
        if tag == "img":
            self.images.append(dict(attrs))
        self.links += [value or "" for name, value in attrs if name in ("href", "src") and tag != "img"]

    def handle_data(self, data: str) -> None:
        if self._heading and data.strip():
            self.headings.append(data.strip())
        self._heading = False


def test_the_files_hold_every_figure_and_the_page_needs_nothing_else(bench: BenchRun, tmp_path: Path) -> None:
    paths, found = write_results(bench, tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.csv", "results.json"]
    assert read_results(paths["json_file"]) == json.loads(json_text(found))
    lines = paths["csv_file"].read_text().splitlines()
    assert len(lines) == 1 + sum(len(method["points"]) for method in found["codecs"][0]["methods"])
    assert csv_text(found).startswith("codec,method,setting,smr,")
    page = _Page()
    page.feed(paths["report"].read_text())
    assert page.links == []
    for title in ("Rate against SMR", "Rate against mAP", "Savings per item", "Chosen QPs", "Savings against effort"):
        assert title in page.headings
    kinds = []
    for image in page.images:
        assert image["alt"]
        kind, _, data = (image["src"] or "").partition(";base64,")
        kinds.append(kind)
        content = base64.b64decode(data, validate=True)
        if kind == "data:image/svg+xml":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            assert content.startswith(b"\x89PNG")
    assert kinds.count("data:image/svg+xml") >= 6
    assert kinds.count("data:image/png") == 6  # two pictures: original, flat, chosen
    assert "NaN" not in paths["json_file"].read_text()


def test_the_table_of_the_readme(bench: BenchRun) -> None:
    text = markdown_tables(document(bench))
    assert "| method | at SMR 0.8 | at SMR 0.9 | at SMR 0.95 | BD-rate | encodes | seconds |" in text
    assert "3 pictures" in text
    assert "judged by 2 others" in text
    assert text.count("\n| `") == len(bench.codecs[0].methods) - 1
