"""Decoding a file to pictures: PNG for each frame, or one Y4M. What vcm-decode does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import OutputError
from codec_wrappers.frames import PixelFormat
from codec_wrappers.workfolder import work_folder
from vcm_ratecontrol.outputs import FRAME_NUMBER, check_output, numbered_names
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.true_size import CroppedClip, without_padding

if TYPE_CHECKING:
    from vcm_ratecontrol.media.clip import Clip


@dataclass(frozen=True)
class DecodedFiles:
    """What was written.

    files: the PNGs in the order of the frames, or the one Y4M; width, height: of what they hold, in samples.
    pix_fmt: 'rgb24' for PNG, else the layout of the Y4M. notes: what the format could not carry, a line each.
    """

    files: tuple[Path, ...]
    width: int
    height: int
    n_frames: int
    pix_fmt: str
    notes: tuple[str, ...] = ()


def check_decoded_output(clip: Clip, output: Path, overwrite: bool = False) -> tuple[Path, ...]:
    """The files that decoding will write. Raises OutputError when they must not or cannot be written."""
    suffix = output.suffix.lower()
    if suffix not in (".png", ".y4m"):
        raise OutputError(f"{output}: unknown suffix {suffix!r}; use NAME.png, NAME_%05d.png or NAME.y4m")
    files: tuple[Path, ...] = (output,)
    if suffix == ".png" and FRAME_NUMBER.search(output.name):
        files = numbered_names(output, clip.n_frames)
    elif suffix == ".png" and clip.n_frames > 1:
        several = output.with_name(f"{output.stem}_%05d.png")
        raise OutputError(
            f"{output}: holds one picture, {clip.path} has {clip.n_frames} frames; use {several} or a .y4m"
        )
    for file in files:
        check_output(clip.path, file, overwrite)
    return files


def decode_clip(
    clip: Clip,
    output: Path,
    pix_fmt: PixelFormat | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> DecodedFiles:
    """Decode all frames, without padding; the output is complete or not there.

    output: NAME.png (one frame), a pattern such as NAME_%05d.png (numbered from 1), or NAME.y4m.
    PNG holds what machines see: upright RGB of 8 bits, full range. Y4M holds the decoded 4:2:0 samples, in the
    clip's own range and not turned; pix_fmt: by default 8 or 10 bits, as the clip has.
    Raises InputError (file damaged) and OutputError.
    """
    files = check_decoded_output(clip, output, overwrite)
    shown = without_padding(clip)
    progress.phase("decoding", clip.n_frames)
    if output.suffix.lower() == ".y4m":
        layout = pix_fmt or ("yuv420p" if clip.bit_depth <= 8 else "yuv420p10le")
        _write_y4m(shown, output, layout, progress)
        width, height = shown.size.width, shown.size.height
        return DecodedFiles(files, width, height, clip.n_frames, layout, _lost_in_y4m(clip))
    _write_pngs(shown, files, progress)
    return DecodedFiles(files, *shown.upright_size, clip.n_frames, "rgb24")


def _write_y4m(shown: CroppedClip, output: Path, pix_fmt: PixelFormat, progress: Progress) -> None:
    from vcm_ratecontrol.media.write import write_y4m

    def counted() -> Iterator[bytes]:
        for frame in shown.clip.read(0, shown.clip.n_frames, pix_fmt):
            yield frame
            progress.advance()

    with work_folder(output) as folder:
        write_y4m(counted(), shown.format, folder / output.name, pix_fmt)
        _move_all(folder, (output,))


def _write_pngs(shown: CroppedClip, files: tuple[Path, ...], progress: Progress) -> None:
    from vcm_ratecontrol.media.write import write_png

    with work_folder(files[0]) as folder:
        for file, rgb in zip(files, shown.read_rgb(), strict=True):
            write_png(rgb, folder / file.name)
            progress.advance()
        _move_all(folder, files)


def _move_all(folder: Path, files: tuple[Path, ...]) -> None:
    """Give finished files their names; all or, when interrupted, none."""
    placed: list[Path] = []
    try:
        for file in files:
            (folder / file.name).replace(file)
            placed.append(file)
    except OSError as error:
        _remove(placed)
        raise OutputError(f"{file}: cannot be written ({error.strerror}); choose another name with -o") from error
    except BaseException:
        _remove(placed)
        raise


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()


def _lost_in_y4m(clip: Clip) -> tuple[str, ...]:
    notes = []
    if clip.rotation:
        notes.append(f"Y4M knows no rotation: players would turn this clip by {clip.rotation} degrees")
    if not clip.constant_rate:
        notes.append(f"Y4M knows no timestamps: written at the mean rate of {float(clip.frame_rate):.3f} fps")
    return tuple(notes)
