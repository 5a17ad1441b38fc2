"""Work folders: gone whatever happens, and what a killed run has left is gone with the next one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codec_wrappers.errors import OutputError
from codec_wrappers.workfolder import work_folder

REPOSITORY = Path(__file__).resolve().parents[2]

HOLDER = """
import sys, time
from pathlib import Path
from codec_wrappers.workfolder import work_folder
with work_folder(Path(sys.argv[1])) as folder:
    (folder / "piece.mp4").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(600)
"""


def holder(output: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that works in a folder for `output`, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(output)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_folder_is_absolute_beside_the_output_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with work_folder(Path("out.mp4")) as folder:
        assert folder.is_absolute()
        assert folder.parent == tmp_path
        (folder / "deep").mkdir()
        (folder / "deep" / "piece.mp4").touch()
    with pytest.raises(RuntimeError, match="boom"), work_folder(Path("out.mp4")):
        raise RuntimeError("boom")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "out.mp4", tmp_path / "no" / "out.mp4"):
        with pytest.raises(OutputError, match=rf"^{output}: cannot be written"), work_folder(output):
            pass
    long = tmp_path / ("x" * 250 + ".mp4")
    with work_folder(long) as folder:
        (folder / "final.mp4").touch()
        (folder / "final.mp4").replace(long)
    assert long.exists()


def test_what_a_killed_run_leaves_goes_with_the_next_but_not_what_a_living_one_has(tmp_path: Path) -> None:
    (dead, left), (living, used) = holder(tmp_path / "a.mp4"), holder(tmp_path / "b.mp4")
    try:
        os.kill(dead.pid, signal.SIGKILL)
        dead.communicate(timeout=30)
        assert (left / "piece.mp4").exists()
        foreign = tmp_path / ".vcm-notes.part"
        foreign.mkdir()
        with work_folder(tmp_path / "c.mp4") as folder:
            assert not left.exists()
            assert (used / "piece.mp4").exists()
            assert foreign.exists()
            with work_folder(tmp_path / "d.mp4") as other:
                assert folder.exists()
                assert other != folder
    finally:
        living.send_signal(signal.SIGINT)
        living.communicate(timeout=30)
    assert sorted(tmp_path.iterdir()) == [foreign]
