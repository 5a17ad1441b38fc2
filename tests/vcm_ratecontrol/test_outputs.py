"""Outputs that must not be written are refused before any work, each with the way out."""

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from codec_wrappers.errors import OutputError
from vcm_ratecontrol.outputs import check_output, numbered_names


class TestCheckOutput:
    """Outputs that must not be written, each with the way out."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "in.png"
        path.write_bytes(b"the input")
        return path

    def refused(self, source: Path, output: Path, overwrite: bool, *words: str) -> None:
        with pytest.raises(OutputError) as caught:
            check_output(source, output, overwrite)
        message = str(caught.value)
        assert "\n" not in message
        for word in (str(output.name), "-o", *words):
            assert word in message, message
        assert source.read_bytes() == b"the input"

    def test_a_new_name_is_fine(self, source: Path, tmp_path: Path) -> None:
        check_output(source, tmp_path / "out.mp4", overwrite=False)
        check_output([source], tmp_path / "out.mp4", overwrite=True)
        assert list(tmp_path.iterdir()) == [source]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_the_input_itself(self, source: Path, tmp_path: Path, overwrite: bool) -> None:
        (tmp_path / "soft.png").symlink_to(source)
        (tmp_path / "hard.png").hardlink_to(source)
        (tmp_path / "folder").symlink_to(tmp_path)
        same = (source, tmp_path / "soft.png", tmp_path / "hard.png", tmp_path / "folder" / "in.png")
        for output in same:
            self.refused(source, output, overwrite, "is the input")
        self.refused(tmp_path / "soft.png", source, overwrite, "is the input")

    def test_existing_needs_overwrite(self, source: Path, tmp_path: Path) -> None:
        output = tmp_path / "out.mp4"
        output.touch()
        self.refused(source, output, False, "exists", "-y")
        check_output(source, output, overwrite=True)

    def test_dangling_link_counts_as_existing(self, source: Path, tmp_path: Path) -> None:
        output = tmp_path / "out.mp4"
        output.symlink_to(tmp_path / "nowhere")
        self.refused(source, output, False, "exists", "-y")

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_places_that_hold_no_file(self, source: Path, tmp_path: Path, overwrite: bool) -> None:
        os.mkfifo(tmp_path / "pipe")
        self.refused(source, tmp_path, overwrite, "is a folder")
        self.refused(source, tmp_path / "pipe", overwrite, "not a regular file")
        self.refused(source, Path("/dev/null"), overwrite, "not a regular file")
        self.refused(source, tmp_path / "no" / "out.mp4", overwrite, "no folder")
        self.refused(source, source / "out.mp4", overwrite, "not a folder")
        self.refused(source, tmp_path / ("x" * 300), overwrite)

    def test_folder_that_is_not_writable(self, source: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o555)
            child = os.fork()
            if child == 0:  # root may write everywhere: ask as nobody
                code = 1
                with contextlib.suppress(BaseException):
                    if os.getuid() == 0:
                        os.setgroups([])
                        os.setresuid(65534, 65534, 65534)
                    with pytest.raises(OutputError, match="not writable; choose another with -o"):
                        check_output([], folder / "out.mp4", overwrite=False)
                    code = 0
                os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            folder.chmod(0o755)


def test_numbered_names_count_from_one() -> None:
    names = numbered_names(Path("a/f_%03d.png"), 2)
    assert names == (Path("a/f_001.png"), Path("a/f_002.png"))
    assert numbered_names(Path("%d.png"), 11)[-1] == Path("11.png")


@pytest.mark.parametrize("pattern", ["f.png", "%d_%d.png", "a_%d/f_%d.png", "f_%s.png"])
def test_patterns_without_exactly_one_number_are_refused(pattern: str) -> None:
    with pytest.raises(OutputError, match="exactly one number"):
        numbered_names(Path(pattern), 2)
