"""The library in three lines: the options of `vcm-encode` as keyword arguments.

from vcm_ratecontrol import encode, plan, predict_smr_curve

report = encode("clip.mp4", "out.mp4", target_smr=0.9)
print(report.predicted_smr, report.bits, [segment.qp for segment in report.segments])
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.batch import BatchReport, encode_batch, in_folder
from vcm_ratecontrol.encoding import encode_file
from vcm_ratecontrol.options import (
    EncodeArguments,
    JRDArguments,
    MachineArguments,
    PathLike,
    jrd_request_of,
    library_of,
    request_of,
    thresholds_of,
)
from vcm_ratecontrol.progress import SILENT
from vcm_ratecontrol.report import EncodeReport

if TYPE_CHECKING:
    from vcm_ratecontrol.jrd.batch import JRDBatchReport
    from vcm_ratecontrol.jrd.job import JRDReport
    from vcm_ratecontrol.predictors.interface import CodingType, SMRCurve

Paths = list[str] | list[Path] | tuple[PathLike, ...]


@overload
def encode(source: PathLike, output: PathLike, **options: Unpack[JRDArguments]) -> JRDReport: ...


@overload
def encode(source: Paths, output: PathLike, **options: Unpack[JRDArguments]) -> JRDBatchReport: ...


@overload
def encode(source: PathLike, output: PathLike, **options: Unpack[EncodeArguments]) -> EncodeReport: ...


@overload
def encode(source: Paths, output: PathLike, **options: Unpack[EncodeArguments]) -> BatchReport: ...


def encode(
    source: PathLike | Paths, output: PathLike, **options: Any
) -> EncodeReport | BatchReport | JRDReport | JRDBatchReport:
    """Encode a picture or clip to a target, or several into a folder.

    source: a file, or a list of files; then `output` is a folder. options, all of the command `vcm-encode`:
    target_smr=0.9: to that Satisfied Machine Ratio, of several files in the mean over all of them unless `pool="each"`;
    see `EncodeArguments`. target_jrd=0.75: each object for that share of the machines; see `JRDArguments`. It is one
    function because it is one command: a call reads like the command line, and what the target is says what comes back.
    Returns what came out, in numbers. Raises the errors of `codec_wrappers.errors`: each names the file or option and
    the way out.
    """
    if not isinstance(source, list | tuple):
        return _encode_one(source, output, options)
    inputs = [Path(path) for path in source]
    progress, on_event = options.get("progress", SILENT), options.get("on_event")
    if options.get("target_jrd") is not None:
        from vcm_ratecontrol.jrd.batch import encode_jrd_batch

        return encode_jrd_batch(jrd_request_of(".", output, cast("JRDArguments", options)), inputs, progress, on_event)
    return encode_batch(request_of(".", output, cast("EncodeArguments", options)), inputs, progress, on_event)


@overload
def plan(source: PathLike, **options: Unpack[JRDArguments]) -> JRDReport: ...


@overload
def plan(source: PathLike, **options: Unpack[EncodeArguments]) -> EncodeReport: ...


def plan(source: PathLike, **options: Any) -> EncodeReport | JRDReport:
    """The QPs that `encode` would choose, and its command lines; nothing is written.

    To a target SMR probes are coded, into a temporary folder, unless `probes=0`; in the report `segments` holds QPs and
    predicted SMR, `predicted_bits` what the curves expect. Per object nothing is coded; `qp_levels` holds the QPs, and
    `jrd_map` gives them block by block.
    """
    with tempfile.TemporaryDirectory(prefix="vcm-plan-") as folder:
        report = _encode_one(source, Path(folder) / "plan.mkv", {**options, "dry_run": True})
        return in_folder(report, Path())


def _encode_one(source: PathLike, output: PathLike, options: dict[str, Any]) -> EncodeReport | JRDReport:
    progress, on_event = options.get("progress", SILENT), options.get("on_event")
    if options.get("target_jrd") is not None:
        from vcm_ratecontrol.jrd.job import encode_jrd

        return encode_jrd(jrd_request_of(source, output, cast("JRDArguments", options)), progress, on_event)
    return encode_file(request_of(source, output, cast("EncodeArguments", options)), progress, on_event)


def predict_smr_curve(
    picture: npt.NDArray[np.uint8] | PathLike,
    *,
    frame: int = 0,
    codec: str = "vvc",
    coding: CodingType = "still",
    weights: PathLike | None = None,
    **machines: Unpack[MachineArguments],
) -> SMRCurve:
    """SMR and bits at all 64 levels (VVC QPs), from one look at the original; nothing is coded.

    picture: uint8 RGB [H, W, 3], or a file, of which `frame` is taken. codec: 'vvc', 'hevc' or 'av1'. coding: 'still',
    or 'inter' for a picture of a clip. With machines their confidences make the curve.
    Raises InputError, MissingToolError (neither weights nor machines), CacheError (damaged weights).
    """
    from vcm_ratecontrol.ratecontrol.judges import open_judges
    from vcm_ratecontrol.ratecontrol.predicted import evidence_of
    from vcm_ratecontrol.scoring import run_originals

    rgb = picture if isinstance(picture, np.ndarray) else _frame(Path(picture), frame)
    folder = Path(weights) if weights is not None else None
    task = machines.get("task", "both")
    with open_judges(codec, task, library_of(machines), os.cpu_count() or 1, folder) as judges:
        source = judges.curves(coding)
        if judges.room is None:
            return source.curve(rgb)
        (look,) = run_originals([rgb], judges.room)
        return source.curve(rgb, evidence_of(look, rgb, thresholds_of(machines)))


def _frame(path: Path, index: int) -> npt.NDArray[np.uint8]:
    from vcm_ratecontrol.media import open_clip

    clip = open_clip(path)
    if not 0 <= index < clip.n_frames:
        raise InputError(f"{path}: has {clip.n_frames} frames, no frame {index}")
    return next(iter(clip.read_rgb([index])))
