"""The library in three lines: the options of `vcm-encode` as keyword arguments.

from vcm_ratecontrol import encode, plan, predict_smr_curve

report = encode("clip.mp4", "out.mp4", target_smr=0.9)
print(report.predicted_smr, report.bits, [segment.qp for segment in report.segments])
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.batch import BatchReport, encode_batch
from vcm_ratecontrol.encoding import EncodeRequest, encode_file
from vcm_ratecontrol.machines.library import LibraryRef
from vcm_ratecontrol.machines.network import DEFAULT_MIN_CONFIDENCE
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.ratecontrol.planning import Pool, Target
from vcm_ratecontrol.ratecontrol.probe_cache import default_cache_folder
from vcm_ratecontrol.report import EncodeReport
from vcm_ratecontrol.satisfaction import Thresholds
from vcm_ratecontrol.scoring import Tasks

if TYPE_CHECKING:
    from vcm_ratecontrol.predictors.interface import CodingType, SMRCurve

PathLike = str | os.PathLike[str]
Paths = list[str] | list[Path] | tuple[PathLike, ...]

DEFAULT_CACHE = "user cache"
"""Stands for `$VCM_CACHE`, else the user's cache folder."""


class MachineArguments(TypedDict, total=False):
    """Machines that judge, and when they are satisfied.

    machines: folder of a library, None for none; names: only these of it. task: whose verdicts count. t_conf,
    t_iou, t_score, t_label: see `satisfaction.Thresholds`.
    """

    machines: PathLike | None
    names: Sequence[str] | None
    task: Tasks
    t_conf: float
    t_iou: float
    t_score: float
    t_label: float


class EncodeArguments(MachineArguments, total=False):
    """The options of `vcm-encode`, with its defaults; see `request.EncodeRequest` for what each means.

    target_smr: 0..1, or `qp`. cache: a folder; None for none. progress, on_event: to follow a long job.
    """

    target_smr: float | None
    pool: Pool | None
    floor: float
    qp: int | None
    qp_map: PathLike | None
    probes: int | None
    weights: PathLike | None
    codec: str
    encoder_path: PathLike | None
    preset: str | None
    segment_seconds: float
    frames: int
    workers: int
    cache: PathLike | None
    anchor: bool | None
    verify_smr: bool
    strict: bool
    overwrite: bool
    dry_run: bool
    progress: Progress
    on_event: Callable[..., None] | None


@overload
def encode(source: PathLike, output: PathLike, **options: Unpack[EncodeArguments]) -> EncodeReport: ...


@overload
def encode(source: Paths, output: PathLike, **options: Unpack[EncodeArguments]) -> BatchReport: ...


def encode(
    source: PathLike | Paths, output: PathLike, **options: Unpack[EncodeArguments]
) -> EncodeReport | BatchReport:
    """Encode a picture or clip to a target Satisfied Machine Ratio, or several into a folder.

    source: a file, or a list of files; then `output` is a folder, and the target is met in the mean over all of them
    unless `pool="each"`. options: see `EncodeArguments`. Returns what came out, in numbers.
    Raises the errors of `codec_wrappers.errors`: each names the file or option and the way out.
    """
    progress, on_event = options.get("progress", SILENT), options.get("on_event")
    if isinstance(source, list | tuple):
        batch = request_of(".", output, options)
        return encode_batch(batch, [Path(path) for path in source], progress, on_event)
    return encode_file(request_of(source, output, options), progress, on_event)


def plan(source: PathLike, **options: Unpack[EncodeArguments]) -> EncodeReport:
    """The QPs that `encode` would choose, and its command lines; nothing is written.

    Probes are coded, into a temporary folder, unless `probes=0`. In the report `segments` holds QPs and predicted SMR.
    """
    with tempfile.TemporaryDirectory(prefix="vcm-plan-") as folder:
        request = request_of(source, Path(folder) / "plan.mkv", {**options, "dry_run": True})
        return encode_file(request, options.get("progress", SILENT), options.get("on_event"))


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
    with open_judges(codec, task, _library(machines), os.cpu_count() or 1, folder) as judges:
        source = judges.curves(coding)
        if judges.room is None:
            return source.curve(rgb)
        (look,) = run_originals([rgb], judges.room)
        return source.curve(rgb, evidence_of(look, rgb, _thresholds(machines)))


def request_of(source: PathLike, output: PathLike, options: EncodeArguments) -> EncodeRequest:
    """Keyword arguments as the value that the main job takes. Raises InputError for a name that is no option."""
    if unknown := options.keys() - EncodeArguments.__annotations__.keys() - MachineArguments.__annotations__.keys():
        raise InputError(f"no such option: {', '.join(sorted(unknown))}; see vcm_ratecontrol.api.EncodeArguments")
    target_smr, task = options.get("target_smr"), options.get("task", "both")
    cache = options.get("cache", DEFAULT_CACHE)
    return EncodeRequest(
        input=Path(source),
        output=Path(output),
        target=None if target_smr is None else Target(target_smr, task, options.get("pool"), options.get("floor", 0.0)),
        qp=options.get("qp"),
        qp_map=_path(options.get("qp_map")),
        machines=_library(options),
        thresholds=_thresholds(options),
        probes=options.get("probes"),
        weights=_path(options.get("weights")),
        codec=options.get("codec", "vvc"),
        executable=_path(options.get("encoder_path")),
        preset=options.get("preset"),
        segment_seconds=options.get("segment_seconds", 2.0),
        frames_per_segment=options.get("frames", 2),
        workers=options.get("workers", 0),
        cache=default_cache_folder() if cache == DEFAULT_CACHE else _path(cache),
        anchor=options.get("anchor"),
        verify_smr=options.get("verify_smr", False),
        strict=options.get("strict", False),
        overwrite=options.get("overwrite", False),
        dry_run=options.get("dry_run", False),
    )


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _thresholds(options: MachineArguments) -> Thresholds:
    """Raises InputError when one lies outside 0..1."""
    return Thresholds(
        options.get("t_conf", 0.3), options.get("t_iou", 0.5), options.get("t_score", 0.5), options.get("t_label", 0.0)
    )


def _library(options: MachineArguments) -> LibraryRef | None:
    folder, names, task = options.get("machines"), options.get("names"), options.get("task", "both")
    if folder is None:
        return None
    lowest = min(options.get("t_conf", 0.3), DEFAULT_MIN_CONFIDENCE)
    chosen = None if names is None else tuple(names)
    return LibraryRef(Path(folder), chosen, None if task == "both" else task, min_confidence=lowest)


def _frame(path: Path, index: int) -> npt.NDArray[np.uint8]:
    from vcm_ratecontrol.media import open_clip

    clip = open_clip(path)
    if not 0 <= index < clip.n_frames:
        raise InputError(f"{path}: has {clip.n_frames} frames, no frame {index}")
    return next(iter(clip.read_rgb([index])))
