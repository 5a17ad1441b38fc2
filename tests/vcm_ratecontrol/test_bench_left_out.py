"""What takes no part in a benchmark: told, left out of every method, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.errors import InputError
from tests.vcm_ratecontrol.bench_runs import CHOOSING, JUDGING, LEVELS, run, small_pictures, unseen
from vcm_ratecontrol.bench.items import Selection, collect
from vcm_ratecontrol.bench.machine_sets import machine_sets
from vcm_ratecontrol.labels.splits import split_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pictures(asset: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pictures(asset("images"), tmp_path_factory.mktemp("data") / "pictures")


def test_what_cannot_be_read_and_what_is_there_twice_is_told_and_left_out(
    pictures: Path, machines_dir: Path, cache: Path, tmp_path: Path
) -> None:
    names = sorted(pictures.iterdir())
    (tmp_path / "again.png").write_bytes(names[0].read_bytes())
    (tmp_path / "broken.png").write_bytes(names[1].read_bytes()[:2000])
    found = run([pictures, tmp_path], unseen(machines_dir), cache, levels=LEVELS[::3])
    assert len(found.codecs[0].table.items) == 3
    reasons = {item.name: item.reason for item in found.left_out}
    assert reasons.keys() == {"again.png", "broken.png"} or reasons.keys() == {"000000052891.png", "broken.png"}
    assert "same content" in next(reason for name, reason in reasons.items() if name != "broken.png")


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
    assert CHOOSING[0] in found.warnings[0]


def test_a_split_and_a_limit_choose_by_content(pictures: Path) -> None:
    everything = collect([str(pictures)], Selection())
    hashes = {item.content: split_of(item.content) for item in everything.items}
    for split in set(hashes.values()):
        found = collect([str(pictures)], Selection(split=split))
        assert {item.content for item in found.items} == {key for key, of in hashes.items() if of == split}
    (first,) = collect([str(pictures)], Selection(limit=1)).items
    assert first.content == min(hashes)
    with pytest.raises(InputError, match="none of 3 files can be used"):
        missing = ({"train", "validation", "test"} - set(hashes.values())).pop()
        collect([str(pictures)], Selection(split=missing))
