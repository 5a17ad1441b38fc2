"""The cache of probes: what was stored comes back, damage and foreign files are no results, trouble is no error."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache, content_hash, default_cache_folder

REPOSITORY = Path(__file__).resolve().parents[2]
KEY: dict[str, Any] = {"content": "abc", "segment": [0, 25, 37], "thresholds": {"iou": 0.5}}
VALUE: dict[str, Any] = {"bits": 1234, "frames": [{"index": 3, "verdicts": [], "failed": []}]}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@settings(max_examples=30, deadline=None)
@given(key=st.dictionaries(st.text(min_size=1), json_values, max_size=4), value=st.dictionaries(st.text(), json_values))
def test_what_is_stored_comes_back(
    key: dict[str, Any], value: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = ProbeCache(tmp_path_factory.mktemp("cache"))
    assert cache.get(key) is None
    cache.put(key, value)
    assert cache.get(key) == value
    assert cache.get({**key, "one more": 1}) is None


@pytest.mark.parametrize(
    "other",
    [
        {**KEY, "content": "abd"},
        {**KEY, "segment": [0, 25, 38]},
        {**KEY, "segment": [0, 26, 37]},
        {**KEY, "thresholds": {"iou": 0.6}},
        {name: value for name, value in KEY.items() if name != "thresholds"},
    ],
)
def test_any_other_key_is_another_result(other: dict[str, Any], tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path)
    cache.put(KEY, VALUE)
    assert cache.get(other) is None
    assert cache.get({name: KEY[name] for name in reversed(KEY)}) == VALUE


def test_it_outlives_the_process_and_the_last_writer_wins(tmp_path: Path) -> None:
    ProbeCache(tmp_path).put(KEY, {"bits": 1})
    ProbeCache(tmp_path).put(KEY, VALUE)
    assert ProbeCache(tmp_path).get(KEY) == VALUE
    assert len(list(files(tmp_path))) == 1


def test_damaged_files_are_no_results_and_are_replaced(tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path)
    cache.put(KEY, VALUE)
    (path,) = files(tmp_path)
    for content in (b"", b"{", b"\xff\xfe\x00", path.read_bytes()[:20], b"\x00" * 100):
        path.write_bytes(content)
        assert cache.get(KEY) is None
        cache.put(KEY, VALUE)
        assert cache.get(KEY) == VALUE


def test_no_cache_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for folder in (None, blocked, blocked / "deeper", Path("/proc/no/such")):
        cache = ProbeCache(folder)
        cache.put(KEY, VALUE)
        assert cache.get(KEY) is None
    assert blocked.read_text() == "not a folder"


def test_a_full_disk_leaves_no_halves(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache\n"
        f"ProbeCache(Path({str(tmp_path)!r})).put({{'a': 1}}, {{'b': 'x' * 100000}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert list(files(tmp_path)) == []


def test_many_writers_of_one_key_leave_one_whole_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache\n"
        f"cache = ProbeCache(Path({str(tmp_path)!r}))\n"
        "for n in range(60):\n    cache.put({'a': 1}, {'by': sys.argv[1] * 5000})\n    assert cache.get({'a': 1})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, name], cwd=REPOSITORY) for name in "xyz"]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    (path,) = files(tmp_path)
    assert json.loads(path.read_text())["by"] in ("x" * 5000, "y" * 5000, "z" * 5000)


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "own"))
    assert default_cache_folder() == tmp_path / "own"
    monkeypatch.delenv("VCM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg" / "vcm-ratecontrol"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "vcm-ratecontrol"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pathlib.Path.home", _homeless)
    assert default_cache_folder() is None


def _homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_content_is_told_apart_by_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert content_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    other = tmp_path / "b"
    other.write_bytes(b"abc")
    os.utime(other, (1, 1))
    assert content_hash(other) == content_hash(path)
    other.write_bytes(b"abd")
    assert content_hash(other) != content_hash(path)
