"""Splits: stable, of the stated shares, and by picture."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from vcm_ratecontrol.labels.splits import split_of
from vcm_ratecontrol.labels.store import LabelStore

EXPECTED = ["train", "train", "validation", "train", "test", "train", "train", "train"]
DATA = Path(__file__).resolve().parents[2] / "data" / "labels"


def test_values_that_must_never_change() -> None:
    """Labels that are out there were split by this very function."""
    keys = [hashlib.sha256(bytes([n])).hexdigest() for n in range(8)]
    assert [split_of(key) for key in keys] == EXPECTED


def test_shares() -> None:
    counts = Counter(split_of(hashlib.sha256(str(n).encode()).hexdigest()) for n in range(20_000))
    assert counts["train"] / 20_000 == pytest.approx(0.70, abs=0.01)
    assert counts["validation"] / 20_000 == pytest.approx(0.15, abs=0.01)
    assert counts["test"] / 20_000 == pytest.approx(0.15, abs=0.01)


def test_no_picture_is_in_two_splits() -> None:
    """Over all the label folders of the project: no picture, and no clip, is divided."""
    split: dict[str, str] = {}
    clips: dict[str, str] = {}
    folders = [folder for folder in sorted(DATA.glob("*")) if (folder / "pictures.parquet").exists()]
    for folder in folders:
        for line in LabelStore(str(folder)).pictures().to_pylist():
            assert split.setdefault(line["picture"], line["split"]) == line["split"]
            name, _, frame = line["source"].partition("#")
            if frame:
                assert clips.setdefault(name, line["split"]) == line["split"]
            else:
                assert line["split"] == split_of(line["picture"])


def test_every_row_belongs_to_a_listed_picture() -> None:
    for folder in sorted(DATA.glob("*")):
        if not (folder / "pictures.parquet").exists():
            continue
        store = LabelStore(str(folder))
        listed = set(store.pictures()["picture"].to_pylist())
        seen: set[str] = set()
        for table in store.tables(["picture"]):
            here = set(table["picture"].unique().to_pylist())
            assert not here & seen, "a picture in two shards"
            seen |= here
        assert seen == listed
