"""What other detectors that were measured tell of the JRD of objects: as far as a predictor can come that does not
know the judges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.training.object_objective import ObjectObjective, Target

Floats = npt.NDArray[np.float64]

DRAWS = 20
"""Divisions of the judges that are averaged."""

_FACTORS = np.linspace(0.0, 1.5, 151)


@dataclass(frozen=True, eq=False)
class HalfLevels:
    """levels: float64 [2, draws, n], JRD at the ratio over each half of the machines that see an object, NaN where
    fewer than two do. whole: float64 [n], as in `split_half`; 0 there."""

    levels: Floats
    whole: Floats


@dataclass(frozen=True)
class Shrinkage:
    """From levels that some detectors measured to those of others: constant + factor * (measured - middle)."""

    constant: float
    middle: float
    factor: float

    @classmethod
    def fitted(cls, measured: Floats, true: Floats) -> Shrinkage:
        """The constant and middle are medians, the factor that of the least mean absolute error. measured: NaN where
        nothing was."""
        constant, there = float(np.median(true)), np.isfinite(measured)
        if not there.any():
            return cls(constant, 0.0, 0.0)
        middle = float(np.median(measured[there]))
        said = constant + _FACTORS[:, None] * (measured[there] - middle)
        return cls(constant, middle, float(_FACTORS[np.abs(said - true[there]).mean(axis=1).argmin()]))

    def __call__(self, measured: Floats) -> Floats:
        """Levels, the constant where nothing was measured."""
        said = np.clip(self.constant + self.factor * (measured - self.middle), 0, N_LEVELS - 1)
        return np.where(np.isfinite(measured), said, self.constant)


def median_regression(features: Floats, true: Floats, asked: Floats) -> Floats:
    """Levels of the asked objects, linear in their features [n, k], of the least mean absolute error over the others;
    NaN features are the median of the others."""
    from scipy.optimize import linprog

    there = np.isfinite(features).all(axis=1)
    known = np.column_stack([np.ones(int(there.sum())), features[there]])
    n, k = known.shape
    # Weights of either sign, and what each object lies above and below the line, which is to be least.
    costs = np.concatenate([np.zeros(k), np.ones(2 * n)])
    equal = np.hstack([known, np.eye(n), -np.eye(n)])
    solved = linprog(costs, A_eq=equal, b_eq=true[there], bounds=[(None, None)] * k + [(0, None)] * (2 * n))
    said = np.clip(np.column_stack([np.ones(len(asked)), asked]) @ solved.x[:k], 0, N_LEVELS - 1)
    return np.where(np.isfinite(said), said, np.median(true))


def training_objects(objective: ObjectObjective) -> list[Target]:
    """Large enough objects of the first partition that the labels hold of the training split, whether or not the
    pictures are there."""
    found = []
    for at, labels in enumerate(objective.data.sets):
        training = labels.splits[objective.targets[at][0].picture] == "train"
        found += [Target(at, 0, int(member)) for member in np.flatnonzero(training & objective.large(at, 0))]
    return found


def levels_of(objective: ObjectObjective, targets: Sequence[Target]) -> Floats:
    """The JRDs that the targets ask for: float64 [n]."""
    return np.array([objective.of(target).jrd[target.at, 0] for target in targets], np.float64)


def measured_by(objective: ObjectObjective, machines: Sequence[str], targets: Sequence[Target]) -> Floats:
    """What those of the machines that see an object measured of it: float64 [n, 3], JRD at the objective's ratio, mean
    of their JRDs, how many they are; NaN where none is."""
    found = np.full((len(targets), 3), np.nan)
    for at, target in enumerate(targets):
        jrd = _jrds(objective, machines, target)
        if len(jrd):
            found[at] = _at_ratio(jrd[None], objective.options.ratio)[0], jrd.mean(), len(jrd)
    return found


def _jrds(objective: ObjectObjective, machines: Sequence[str], target: Target) -> npt.NDArray[np.int16]:
    """JRD of one object for each of the machines that see it."""
    labels, bank = objective.data.sets[target.labels_at], objective.banks[target.labels_at]
    return bank.jrd[bank.members(int(objective.of(target).group[target.at]), labels.machines_at(machines))]


def measured_by_halves(
    objective: ObjectObjective, machines: Sequence[str], targets: Sequence[Target], seed: int = 0
) -> HalfLevels:
    """Of two random halves of the machines that see each object."""
    rng = np.random.default_rng(seed)
    levels, whole = np.full((2, DRAWS, len(targets)), np.nan), np.zeros(len(targets))
    for at, target in enumerate(targets):
        jrd = _jrds(objective, machines, target)
        if len(jrd) > 1:
            half = len(jrd) // 2
            drawn = rng.permuted(np.tile(jrd, (DRAWS, 1)), axis=1)
            parts = (drawn[:, :half], drawn[:, half:])
            levels[:, :, at] = [_at_ratio(part, objective.options.ratio) for part in parts]
            whole[at] = np.sqrt(half * (len(jrd) - half)) / len(jrd)
    return HalfLevels(levels, whole)


def _at_ratio(jrd: npt.NDArray[np.int16], ratio: float) -> npt.NDArray[np.int16]:
    """As `labels.objects.jrd_at_ratio`, of each row."""
    needed = max(1, math.ceil(ratio * jrd.shape[1] - 1e-9))
    level: npt.NDArray[np.int16] = np.sort(jrd, axis=1)[:, -needed]
    return level
