"""What to encode, and how: the options of `vcm-encode` as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError
from vcm_ratecontrol.media.segments import FRAMES_PER_SEGMENT, SEGMENT_SECONDS
from vcm_ratecontrol.ratecontrol.planning import Target
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from vcm_ratecontrol.machines.library import LibraryRef

# Confirming probes of an item: by the full-reference predictor, and by machines.
PREDICTED_PROBES = 2
MEASURED_PROBES = 3
# The predictors that have a say here.
WEIGHTS = ("curve_small", "curve_evidence", "smr_small")


@dataclass(frozen=True)
class EncodeRequest:
    """What to encode, and how.

    target: SMR to meet, or None with a fixed `qp`. qp_map: file of a QP map (.npz, .png, or a ROI file relative
    to `qp`), for encoders with block QPs; only with `qp`. machines: the library that judges; None: predictors do.
    probes: most encodes tried for each segment, 0 trusts the predicted curve; None: 2, with machines 3. weights: a
    folder of predictors (NAME.safetensors) to be preferred to those of the package.
    codec: an encoder's name or alias ('vvc', 'hevc', 'hevc-kvazaar', 'av1'). executable: a program to use in
    place of the bundled library. segment_seconds: longest segment of a clip, give or take 10 %. frames_per_segment:
    frames that are looked at in each. cache: folder of probe results, None for none. anchor: also code the QP-22
    anchor; None: only where something is measured, else its bits are predicted. verify_smr: measure the final file
    with the machines.
    strict: raise TargetMissedError instead of writing the best effort. workers: 0 for one per core. notes: on the
    options themselves, to be told in the report.
    """

    input: Path
    output: Path
    target: Target | None = None
    qp: int | None = None
    qp_map: Path | None = None
    machines: LibraryRef | None = None
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    probes: int | None = None
    weights: Path | None = None
    codec: str = "vvc"
    executable: Path | None = None
    preset: str | None = None
    segment_seconds: float = SEGMENT_SECONDS
    frames_per_segment: int = FRAMES_PER_SEGMENT
    workers: int = 0
    cache: Path | None = None
    anchor: bool | None = None
    verify_smr: bool = False
    strict: bool = False
    overwrite: bool = False
    dry_run: bool = False
    notes: tuple[str, ...] = ()

    @property
    def n_probes(self) -> int:
        if self.probes is not None:
            return self.probes
        return PREDICTED_PROBES if self.machines is None else MEASURED_PROBES

    @property
    def mode(self) -> str:
        """'measured' (by machines), 'predicted', or 'fixed' (a QP was given)."""
        if self.target is None:
            return "fixed"
        return "measured" if self.machines is not None and self.n_probes else "predicted"

    def check(self) -> None:
        """Raises InputError for options that contradict each other or are out of range."""
        if (self.target is None) == (self.qp is None):
            raise InputError("give one of --target-smr, --qp and --target-jrd")
        if self.qp_map is not None and self.qp is None:
            raise InputError(f"--qp-map {self.qp_map}: give the QP of the pictures with --qp, too")
        if self.target is not None:
            self.target.check()
        if self.n_probes < 0:
            raise InputError(f"--probes {self.probes}: must be 0 or more")
        if self.verify_smr and self.machines is None:
            raise InputError("--verify-smr: machines measure the final file; give --machines DIR")
        if self.weights is not None and not self.weights.is_dir():
            raise InputError(f"--weights {self.weights}: no such folder; give one with NAME.safetensors in it")
        if self.weights is not None and not any((self.weights / f"{name}.safetensors").is_file() for name in WEIGHTS):
            wanted = ", ".join(f"{name}.safetensors" for name in WEIGHTS)
            raise InputError(f"--weights {self.weights}: holds none of {wanted}; give the folder that does")
        if not 0 < self.segment_seconds < math.inf:
            raise InputError(f"--segment-seconds {self.segment_seconds}: must be a number of seconds above 0")
