"""What the teachers know beside their confidence, in few numbers: soft groups of classes, and principal components.

A thousand classes are too hard a target for a small student and few pictures (pilot: 7 % agreement). Classes that the
teachers confuse form a group; their averaged, centred log probabilities are projected on the directions in which
pictures differ most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError

Floats = npt.NDArray[np.float32]

LOG_FLOOR = 1e-5
"""Smallest probability that is told apart."""

N_COCO = 80
"""Classes of the detectors."""

SUMMARIES = 8
"""Numbers that the feature vector begins with, see `summary`."""


@dataclass(frozen=True, eq=False)
class TeacherSpace:
    """From raw teacher vectors to targets. N_raw = classes of the classifiers + 80 of the detectors.

    group_of: int64 [classes], 0..G-1. mean: float32 [N_raw]; components: float32 [D - 8, N_raw], each scaled so that
    its projection has unit variance. summary_mean, summary_scale: float32 [8].
    """

    group_of: npt.NDArray[np.int64]
    mean: Floats
    components: Floats
    summary_mean: Floats
    summary_scale: Floats

    @property
    def n_groups(self) -> int:
        return int(self.group_of.max()) + 1

    @property
    def n_features(self) -> int:
        return len(self.components) + SUMMARIES

    def groups(self, probabilities: Floats) -> Floats:
        """Mean probabilities of the classifiers, float32 [B, classes] -> of the groups, float32 [B, G]; sums stay 1."""
        found = np.zeros((len(probabilities), self.n_groups), np.float32)
        np.add.at(found.T, self.group_of, probabilities.T)
        found /= np.maximum(found.sum(axis=1, keepdims=True), 1e-6)
        return found

    def features(self, raw: Floats, summaries: Floats) -> Floats:
        """float32 [B, N_raw] and [B, 8] -> float32 [B, D], each about of unit variance."""
        first = (summaries - self.summary_mean) / self.summary_scale
        return np.concatenate([first, (raw - self.mean) @ self.components.T], axis=1).astype(np.float32)


def raw_vector(probabilities: Floats, class_scores: Floats) -> Floats:
    """One picture's averaged classifier probabilities [classes] and detector class scores [80] -> float32 [N_raw]."""
    logs = np.log(np.maximum(probabilities, LOG_FLOOR))
    return np.concatenate([logs - logs.mean(), 2 * class_scores]).astype(np.float32)


def fit_space(
    probabilities: Floats, class_scores: Floats, summaries: Floats, groups: int, features: int, seed: int = 0
) -> TeacherSpace:
    """Fit to pictures: float32 [n, classes], [n, 80], [n, 8].

    Raises InputError for fewer pictures than features.
    """
    if len(probabilities) < features:
        raise InputError(f"{len(probabilities)} crops are too few for {features} teacher features; make more")
    raw = np.stack([raw_vector(p, c) for p, c in zip(probabilities, class_scores, strict=True)])
    mean = raw.mean(axis=0)
    _, values, directions = np.linalg.svd(raw - mean, full_matrices=False)
    wanted = features - SUMMARIES
    deviation = np.maximum(values[:wanted] / np.sqrt(len(raw)), 1e-3)
    components = directions[:wanted] / deviation[:, None]
    if len(components) < wanted:
        components = np.pad(components, ((0, wanted - len(components)), (0, 0)))
    return TeacherSpace(
        group_of=class_groups(probabilities, groups, seed),
        mean=mean.astype(np.float32),
        components=components.astype(np.float32),
        summary_mean=summaries.mean(axis=0).astype(np.float32),
        summary_scale=np.maximum(summaries.std(axis=0), 1e-3).astype(np.float32),
    )


def class_groups(probabilities: Floats, groups: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Classes that teachers give probability to on the same pictures, together: int64 [classes], every group used.

    k-means on the classes' profiles over the pictures (square roots of probabilities, reduced, of unit length).
    """
    n_classes = probabilities.shape[1]
    groups = min(groups, n_classes)
    profiles = np.sqrt(probabilities).T
    left, values, _ = np.linalg.svd(profiles - profiles.mean(axis=0), full_matrices=False)
    points = (left * values)[:, : 2 * groups]
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-6)
    rng = np.random.default_rng(seed)
    centres = points[rng.choice(n_classes, groups, replace=False)]
    group_of = np.zeros(n_classes, np.int64)
    for _ in range(30):
        closeness = points @ centres.T
        group_of = closeness.argmax(axis=1)
        for empty in np.setdiff1d(np.arange(groups), group_of):
            group_of[closeness.max(axis=1).argmin()] = empty
            closeness[group_of == empty] = 1
        sums = np.zeros_like(centres)
        np.add.at(sums, group_of, points)
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    return np.unique(group_of, return_inverse=True)[1].astype(np.int64)
