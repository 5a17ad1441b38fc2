"""The label folder: same rows, same bytes; killed at any moment it goes on; it refuses what does not fit."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codec_wrappers.errors import CacheError, InputError
from tests.vcm_ratecontrol.label_rows import QPS, classification, detections, key, line, machine_rows
from vcm_ratecontrol.labels.dataset import DatasetConfig
from vcm_ratecontrol.labels.schema import ORIGINAL_QP, label_schema
from vcm_ratecontrol.labels.store import LabelStore

CONFIG = DatasetConfig("vvenc", "vvc", "faster", "still", QPS, {"c1": "aa", "d1": "bb"}, "1.0", 640)


def add(store: LabelStore, *numbers: int) -> None:
    for number in numbers:
        found = detections((0, 0, 10 + number, 20, 0.9, 1))
        results = {qp: found for qp in (ORIGINAL_QP, *QPS)}
        labels = {qp: classification(number % 10) for qp in (ORIGINAL_QP, *QPS)}
        picture = key(number)
        rows = machine_rows(picture, "d1", results) + machine_rows(picture, "c1", labels)
        store.write_part(line(picture), rows)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    made = LabelStore(str(tmp_path / "labels"))
    made.open(CONFIG)
    return made


def test_gathered_shards_do_not_depend_on_order_or_portions(tmp_path: Path) -> None:
    at_once, by_and_by = (LabelStore(str(tmp_path / name)) for name in ("a", "b"))
    for one in (at_once, by_and_by):
        one.open(CONFIG)
    add(at_once, *range(30))
    at_once.gather()
    for portion in ([7, 3, 29], [0, 1, 2], sorted(set(range(30)) - {7, 3, 29, 0, 1, 2}, reverse=True)):
        add(by_and_by, *portion)
        by_and_by.gather()
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert not (tmp_path / "a" / "parts").exists()


def test_a_picture_that_is_in_part_and_shard_counts_once(store: LabelStore, tmp_path: Path) -> None:
    """As after a kill between the shards and the picture list."""
    add(store, *range(5))
    store.gather()
    before = files(tmp_path / "labels")
    add(store, 3)
    (tmp_path / "labels" / "pictures.parquet").unlink()
    assert store.finished() == {key(n) for n in range(5)}
    add(store, *range(5))
    store.gather()
    assert files(tmp_path / "labels") == before


def test_a_lost_shard_is_made_again(store: LabelStore, tmp_path: Path) -> None:
    add(store, *range(20))
    store.gather()
    before = files(tmp_path / "labels")
    shard = tmp_path / "labels" / "shards" / f"{int(key(0)[0], 16):02d}.parquet"
    shard.unlink()
    lost = [n for n in range(20) if key(n) not in store.finished()]
    assert 0 in lost
    add(store, *lost)
    store.gather()
    assert files(tmp_path / "labels") == before


def test_parts_can_be_read_before_they_are_gathered(store: LabelStore) -> None:
    add(store, 0, 1)
    store.gather()
    add(store, 2)
    assert store.pictures()["picture"].to_pylist() == sorted(key(n) for n in range(3))
    assert set(store.table()["picture"].to_pylist()) == {key(n) for n in range(3)}


def test_rows_survive_the_way_to_disk_and_back(store: LabelStore) -> None:
    add(store, 4)
    store.gather()
    table = store.table()
    assert table.schema.equals(label_schema())
    rows = [row for row in table.to_pylist() if row["machine"] == "d1" and row["qp"] == 30]
    whole, single = sorted(rows, key=lambda row: row["object"])
    assert (whole["score"], whole["satisfied"], whole["boxes"]) == (1.0, True, [0, 0, 56, 80])
    assert whole["confidences"] == [pytest.approx(0.9, abs=1 / 1024)]
    assert (single["object"], single["labels"], single["match_iou"]) == (0, [1], 1.0)


def test_temporary_files_of_a_killed_run_are_removed(store: LabelStore, tmp_path: Path) -> None:
    add(store, 0)
    left = [tmp_path / "labels" / name for name in ("dataset.json.1.tmp", "parts/ab.parquet.0011.tmp")]
    for path in left:
        path.write_bytes(b"half")
    store.open(CONFIG)
    assert not any(path.exists() for path in left)
    assert store.finished() == {key(0)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preset": "fast"}, "preset: faster there, fast asked"),
        ({"qps": (20,)}, "qps: 20,30,40 there, 20 asked"),
        ({"machines": {"c1": "aa"}}, "d1 not asked"),
        ({"machines": {"c1": "aa", "d1": "bb", "d2": "cc"}}, "d2 not there"),
        ({"machines": {"c1": "aa", "d1": "xx"}}, "d1 changed"),
        ({"encoder_version": "2.0"}, "encoder_version"),
        ({"max_side": 0}, "max_side"),
    ],
)
def test_another_folder_is_refused_saying_what_differs(store: LabelStore, change: dict[str, object], said: str) -> None:
    with pytest.raises(CacheError, match=said):
        store.open(replace(CONFIG, **change))  # type: ignore[arg-type]


def test_the_order_of_machines_is_no_difference(store: LabelStore) -> None:
    store.open(replace(CONFIG, machines=dict(reversed(CONFIG.machines.items()))))


def test_another_schema_version_is_refused(store: LabelStore, tmp_path: Path) -> None:
    path = tmp_path / "labels" / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
    with pytest.raises(CacheError, match=r"label schema 2, this program writes 1"):
        store.open(CONFIG)


def test_a_shard_of_another_schema_version_is_refused(store: LabelStore, tmp_path: Path) -> None:
    add(store, 0)
    store.gather()
    (path,) = (tmp_path / "labels" / "shards").iterdir()
    pq.write_table(pq.read_table(path).replace_schema_metadata({"vcm_labels_version": "9"}), path)
    with pytest.raises(CacheError, match="label schema 9"):
        store.table()


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing else", b"not json"])
def test_damage_is_named(store: LabelStore, tmp_path: Path, content: bytes) -> None:
    add(store, 0)
    store.gather()
    (path,) = (tmp_path / "labels" / "shards").iterdir()
    path.write_bytes(content)
    with pytest.raises(CacheError, match=path.name):
        store.table()
    (tmp_path / "labels" / "dataset.json").write_bytes(content)
    with pytest.raises(CacheError, match=r"dataset\.json"):
        store.config()


def test_an_empty_folder_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vcm-annotate"):
        LabelStore(str(tmp_path)).table()
    with pytest.raises(InputError, match="vcm-annotate"):
        LabelStore(str(tmp_path)).pictures()


def test_unknown_storage_is_refused() -> None:
    with pytest.raises(InputError, match="nosuch"):
        LabelStore("nosuch://bucket/labels").config()


def test_one_run_at_a_time(store: LabelStore, tmp_path: Path) -> None:
    other = LabelStore(str(tmp_path / "labels"))
    with store.exclusive(), pytest.raises(CacheError, match="another run"), other.exclusive():
        pass
    with other.exclusive():
        pass
    assert not (tmp_path / "labels" / ".lock").exists()


def test_a_label_folder_may_lie_anywhere_that_fsspec_reaches() -> None:
    store = LabelStore("memory://test-labels-anywhere")
    store.open(CONFIG)
    with store.exclusive():
        add(store, 0, 1)
        assert store.gather() == 2
    assert store.pictures().num_rows == 2
    assert isinstance(store.table(), pa.Table)


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, {root!r})
from codec_wrappers.errors import OutputError
from tests.vcm_ratecontrol.test_labels_store import CONFIG, LabelStore, add
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = LabelStore({folder!r})
store.open(CONFIG)
add(store, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    add(store, 1)
except OutputError as error:
    print(error)
"""


def test_a_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    """A limit on the size of files makes the system refuse to write, as a full disk does."""
    folder = tmp_path / "labels"
    root = str(Path(__file__).resolve().parents[2])
    script = FULL_DISK.format(root=root, folder=str(folder))
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert told.stdout.strip().endswith("what is done is kept"), told.stderr
    assert [path.name for path in (folder / "parts").iterdir()] == [f"{key(0)}.parquet"]
