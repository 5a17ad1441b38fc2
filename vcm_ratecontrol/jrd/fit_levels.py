"""Fits the level rule on the training pictures of label folders, and reports it on the test pictures.

    python -m vcm_ratecontrol.jrd.fit_levels data/labels/vvc-faster-still data/labels/hevc-medium-still

For every detector and every object that it sees on the original: its confidence, the size of its box, and the JRD
at ratio r of the same physical object over all *other* detectors that see it. The rule is the linear quantile
regression of the latter (Koenker & Bassett, 1978). For the rule of several machines the detectors are divided in
two at random: one half gives the mean confidence, the other half the JRD.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.jrd.levels import TABLE, features
from vcm_ratecontrol.labels.objects import ObjectFlags, load_objects, object_jrd, physical_objects
from vcm_ratecontrol.labels.store import LabelStore

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

RATIOS = (0.25, 0.5, 0.75, 0.9, 1.0)
QUANTILES = (0.1, 0.25, 0.5, 0.75)
DIVISIONS = 12
LEAST_JUDGES = 2
"""An object that one machine alone sees is more often a mistake of that machine than an object."""


@dataclass(frozen=True, eq=False)
class Examples:
    """N objects as some machines see them. confidences, sizes: float64 [N], 0..1. jrd: float64 [N, ratios], over
    other machines. picture: int64 [N]."""

    confidences: Floats
    sizes: Floats
    jrd: Floats
    picture: Indices

    def chosen(self, keep: npt.NDArray[np.bool_]) -> Examples:
        return Examples(self.confidences[keep], self.sizes[keep], self.jrd[keep], self.picture[keep])


@dataclass(frozen=True, eq=False)
class Bank:
    """All objects of a label folder. jrd, groups: int64 [N]; sizes: float64 [N]; split: of each picture."""

    objects: ObjectFlags
    jrd: Indices
    groups: Indices
    sizes: Floats
    split: npt.NDArray[np.str_]

    @classmethod
    def load(cls, folder: str) -> Bank:
        store = LabelStore(folder)
        objects = load_objects(store)
        known = {row["picture"]: row for row in store.pictures().to_pylist()}
        areas = np.array([known[name]["width"] * known[name]["height"] for name in objects.pictures], np.float64)
        sides = np.clip((objects.boxes[:, 2:] - objects.boxes[:, :2]).astype(np.float64), 0.0, None)
        return cls(
            objects,
            object_jrd(objects).astype(np.int64),
            physical_objects(objects),
            np.sqrt(sides.prod(axis=1) / areas[objects.picture]),
            np.array([known[name]["split"] for name in objects.pictures]),
        )

    def alone(self) -> Examples:
        """Each detector's objects against all others."""
        parts = []
        for machine in range(len(self.objects.machines)):
            mine = self.objects.machine == machine
            jrd, counts = self._judged(~mine)
            members = np.flatnonzero(mine & (counts[self.groups] >= LEAST_JUDGES))
            groups = self.groups[members]
            parts.append(self._examples(members, self.objects.confidences[members], jrd[groups]))
        return _joined(parts)

    def together(self, seed: int = 0) -> Examples:
        """Objects that one half of the detectors sees, at their mean confidence, against the other half."""
        rng = np.random.default_rng(seed)
        detectors = np.unique(self.objects.machine)
        parts = []
        for _ in range(DIVISIONS):
            asked = np.isin(self.objects.machine, rng.permutation(detectors)[: len(detectors) // 2])
            jrd, counts = self._judged(~asked)
            summed = np.bincount(self.groups[asked], self.objects.confidences[asked], minlength=len(counts))
            mean = summed / (len(detectors) // 2)
            # One example per physical object: its most confident member among those asked.
            order = np.flatnonzero(asked)[np.argsort(-self.objects.confidences[asked], kind="stable")]
            groups, first = np.unique(self.groups[order], return_index=True)
            keep = counts[groups] >= LEAST_JUDGES
            parts.append(self._examples(order[first[keep]], mean[groups[keep]], jrd[groups[keep]]))
        return _joined(parts)

    def _judged(self, judges: npt.NDArray[np.bool_]) -> tuple[Floats, Indices]:
        """JRD at each ratio of each physical object over some machines' objects, float64 [groups, ratios], and how
        many of them see it."""
        n_groups = int(self.groups.max(initial=-1)) + 1
        members = np.flatnonzero(judges)
        order = members[np.lexsort((-self.jrd[members], self.groups[members]))]
        counts = np.bincount(self.groups[members], minlength=n_groups)
        starts = np.cumsum(counts) - counts
        values = np.append(self.jrd[order], 0)
        needed = [np.maximum(1, np.ceil(ratio * counts - 1e-9).astype(np.int64)) for ratio in RATIOS]
        return np.stack([values[np.minimum(starts + n - 1, len(order))] for n in needed], axis=1).astype(float), counts

    def _examples(self, members: Indices, confidences: npt.NDArray[np.floating], jrd: Floats) -> Examples:
        return Examples(confidences.astype(np.float64), self.sizes[members], jrd, self.objects.picture[members])


def _joined(parts: list[Examples]) -> Examples:
    names = ("confidences", "sizes", "jrd", "picture")
    return Examples(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def quantile_regression(x: Floats, y: Floats, quantile: float) -> Floats:
    """Coefficients that minimise the pinball loss, by the dual linear programme: x [N, k], y [N] -> [k]."""
    from scipy.optimize import linprog

    bound = (quantile - 1.0, quantile)
    solved = linprog(-y, A_eq=x.T, b_eq=np.zeros(x.shape[1]), bounds=[bound] * len(y), method="highs")
    coefficients: Floats = -np.asarray(solved.eqlin.marginals)
    return coefficients


def fit(examples: Examples, most: int = 8000) -> Floats:
    """Coefficients float64 [ratios, quantiles, 5]. most: examples taken, evenly."""
    step = max(1, len(examples.picture) // most)
    x = features(examples.confidences, examples.sizes)[::step]
    y = examples.jrd[::step]
    return np.array([[quantile_regression(x, y[:, r], q) for q in QUANTILES] for r in range(len(RATIOS))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="label folders, named CODEC-...")
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    codecs: dict[str, dict[str, list[object]]] = {}
    for folder in arguments.folders:
        codec = Path(folder).name.split("-")[0]
        bank = Bank.load(folder)
        codecs[codec] = {}
        for kind, examples in (("alone", bank.alone()), ("together", bank.together())):
            fitted = fit(examples.chosen(bank.split[examples.picture] == "train"))
            codecs[codec][kind] = np.round(fitted, 3).tolist()
            report(codec, kind, fitted, examples.chosen(bank.split[examples.picture] == "test"))
    content = {"ratios": RATIOS, "quantiles": QUANTILES, "codecs": codecs}
    arguments.out.write_text(json.dumps(content) + "\n", encoding="utf-8")


def report(codec: str, kind: str, fitted: Floats, test: Examples) -> None:
    """Prints, on objects of test pictures: share that is more fragile than its level, and mean absolute error of the
    median against that of the best constant."""
    x = features(test.confidences, test.sizes)
    for r, ratio in enumerate(RATIOS):
        below = [f"{np.mean(test.jrd[:, r] < x @ c - 0.5):.3f}" for c in fitted[r]]
        error = np.abs(test.jrd[:, r] - x @ fitted[r][QUANTILES.index(0.5)]).mean()
        constant = np.abs(test.jrd[:, r] - np.median(test.jrd[:, r])).mean()
        print(
            f"{codec:5s} {kind:8s} ratio {ratio:4.2f}  objects {len(x):6d}  below q={QUANTILES}: {' '.join(below)}"
            f"  MAE {error:.2f}, constant {constant:.2f}"
        )


if __name__ == "__main__":
    main()
