"""SMR curves of pictures, purely from verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.verdicts import Verdicts


@dataclass(frozen=True)
class SMRCurves:
    """Satisfied Machine Ratio of P pictures at Q QPs.

    pictures: hashes. qps: rising, the original (ORIGINAL_QP) not among them.
    satisfied, valid: int32 [P, Q], numbers of machines.
    """

    pictures: tuple[str, ...]
    qps: tuple[int, ...]
    satisfied: npt.NDArray[np.int32]
    valid: npt.NDArray[np.int32]

    @property
    def smr(self) -> npt.NDArray[np.float64]:
        """float64 [P, Q] in 0..1; NaN where no machine is valid."""
        values = np.full(self.valid.shape, np.nan)
        np.divide(self.satisfied, self.valid, out=values, where=self.valid > 0)
        return values

    def with_valid(self, least: int) -> SMRCurves:
        """Only pictures with at least so many valid machines at every QP."""
        keep = np.flatnonzero((self.valid >= least).all(axis=1))
        return SMRCurves(tuple(self.pictures[i] for i in keep), self.qps, self.satisfied[keep], self.valid[keep])


def smr_curves(verdicts: Verdicts, task: str = "both", machines: Sequence[str] | None = None) -> SMRCurves:
    """SMR of each picture at each QP over the machines of a task.

    task: 'classification', 'detection' or 'both'. machines: a subset of the library, None for all.
    Raises InputError for an unknown task or machine.
    """
    chosen = verdicts.of_machines(machines, task)
    columns = [at for at, qp in enumerate(chosen.qps) if qp != ORIGINAL_QP]
    return SMRCurves(
        chosen.pictures,
        tuple(chosen.qps[at] for at in columns),
        chosen.satisfied[:, :, columns].sum(axis=1, dtype=np.int32),
        chosen.valid[:, :, columns].sum(axis=1, dtype=np.int32),
    )


def mean_smr(curves: SMRCurves) -> npt.NDArray[np.float64]:
    """Mean curve over the pictures (each counts once), float64 [Q]; NaN where no picture has a valid machine."""
    smr = curves.smr
    known = ~np.isnan(smr)
    total, number = np.where(known, smr, 0.0).sum(axis=0), known.sum(axis=0)
    mean: npt.NDArray[np.float64] = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    return mean


def to_levels(values: npt.NDArray[np.floating], qps: Sequence[int]) -> npt.NDArray[np.float64]:
    """Values on a QP grid ([..., Q]) on all levels 0..63 (float64 [..., 64]), assuming nothing unmeasured.

    A level between two measured QPs takes the value of the higher one, a level below the lowest that of the
    lowest, and a level above the highest counts as satisfied by nobody (0): the reading of `jrd_rules`.
    """
    grid = np.asarray(qps)
    full = np.zeros((*values.shape[:-1], N_LEVELS))
    measured = np.arange(grid[-1] + 1)
    full[..., : len(measured)] = values[..., np.searchsorted(grid, measured)]
    return full
