"""The level that a network says of each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vcm_ratecontrol.jrd_rules import published_window_rules
from vcm_ratecontrol.predictors.dtjrd import ObjectJRDClassifier, decode_level
from vcm_ratecontrol.predictors.mean_curve import non_increasing
from vcm_ratecontrol.progress import Progress
from vcm_ratecontrol.training.object_objective import ObjectObjective, Target

Floats = npt.NDArray[np.float64]

PUBLISHED = "published rule"
MEDIAN = "median of the probabilities"

_AT_ONCE = 32


def predicted_levels(
    network: nn.Module, objective: ObjectObjective, targets: Sequence[Target], device: torch.device, progress: Progress
) -> dict[str, Floats]:
    """Predicted level of each object, float64 [n], by the name of the decoding: '' where there is but one."""
    if objective.pairs:
        return _from_coded(network, objective, targets, device, progress)
    assert isinstance(network, ObjectJRDClassifier)
    found = []
    for start in range(0, len(targets), _AT_ONCE):
        item = objective.item(targets[start : start + _AT_ONCE])
        logits = network(item.batch.to(device)).logits.float().cpu()
        found.append(decode_level(logits, network.decode).numpy())
        progress.advance(len(logits))
    return {"": np.concatenate(found).astype(np.float64)}


def _from_coded(
    network: nn.Module, objective: ObjectObjective, targets: Sequence[Target], device: torch.device, progress: Progress
) -> dict[str, Floats]:
    """Full reference: asked once at every measured QP."""
    levels = {PUBLISHED: np.zeros(len(targets)), MEDIAN: np.zeros(len(targets))}
    for at, target in enumerate(targets):
        qps = objective.data.sets[target.labels_at].qps
        item = objective.item([replace(target, qp_at=1 + column) for column in range(len(qps))])
        logits = network(item.batch.to(device)).logits.float().cpu()
        recognised = (logits.argmax(dim=1) == 0).numpy()
        levels[PUBLISHED][at] = int(published_window_rules(recognised[None], qps)[0])
        levels[MEDIAN][at] = median_level(torch.softmax(logits, dim=1)[:, 0].double().numpy(), qps)
        progress.advance()
    return levels


def median_level(probability: Floats, qps: Sequence[int]) -> int:
    """JRD that the probabilities [Q] of 'still recognised' at the measured QPs make the least wrong.

    Made never rising (least squares), they are P(JRD >= QP), and the median has the least mean absolute error: the
    highest QP at which it is at least 1/2; 0 for none. A JRD is a measured QP by its definition, so nothing is gained
    between two of them.
    """
    there = np.flatnonzero(non_increasing(probability) >= 0.5)
    return int(qps[there[-1]]) if len(there) else 0
