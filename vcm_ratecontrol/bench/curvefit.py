"""The least-squares rate-quality curve that a bounded, saturating quality metric allows.

SMR and mAP measured at a few rates dip (noise), tie (a finite number of machines) and stick at their
upper bound, and interpolating such points backwards - rate as a function of quality, as Bjøntegaard's
delta does - gives anything. MPEG VCM therefore replaces every accuracy curve by a monotone, concave fit
(Wang et al., PCS 2024, doi 10.1109/PCS60826.2024.10566370: a cubic over log10 rate). A cubic that is
concave everywhere cannot follow SMR, which is an S over log rate: concave where it saturates, convex at
its foot. The fit here keeps what is certain - never falling, never above its bound, saturating at the
top - and lets the data say where the foot ends: non-decreasing, convex up to one inflection, concave
from there on (the purely concave curve is the case of an inflection at the first point). Inside such a
curve no two points tie, whereas plain isotonic regression turns each dip into a step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Beyond this many inflections the search goes coarse to fine: a non-negative least squares each.
_MAX_COARSE_INFLECTIONS = 17


def fit_saturating(x: Floats, y: Floats, *, upper: float | None = None, weights: Floats | None = None) -> Floats:
    """Least-squares fit of `y` over `x`: non-decreasing, convex and then concave, at most `upper`.

    x: float64 [n], strictly rising (log10 rate), n >= 1. y: float64 [n]. upper: the metric's upper
    bound, None for an unbounded one. weights: float64 [n] > 0, measurements behind each point.
    Returns float64 [n]. Points that already have the shape come back unchanged (to about 1e-12).
    """
    if len(x) < 2:
        return y if upper is None else np.minimum(y, upper)
    span = (x - x[0]) / (x[-1] - x[0])
    root = np.sqrt(np.ones_like(y) if weights is None else weights)
    errors: dict[int, float] = {}
    fits: dict[int, Floats] = {}

    def try_inflections(nodes: range) -> int:
        for node in nodes:
            if node not in fits:
                fits[node] = _fit_with_inflection(span, y, node, upper, root)
                errors[node] = float(np.sum((root * (fits[node] - y)) ** 2))
        # Equal errors: the lowest inflection, so that a concave curve counts as concave.
        return min(errors, key=lambda node: (round(errors[node], 15), node))

    segments = len(x) - 1
    stride = max(1, segments // (_MAX_COARSE_INFLECTIONS - 1))
    best = try_inflections(range(0, segments + 1, stride))
    best = try_inflections(range(max(0, best - stride + 1), min(segments, best + stride - 1) + 1))
    return fits[best]


def _fit_with_inflection(x: Floats, y: Floats, node: int, upper: float | None, root: Floats) -> Floats:
    """The fit whose slopes rise up to point `node` and fall from there on, by non-negative least squares.

    The shape is a cone: with U the bound, U - y is a non-negative sum of ramps, one for each
    segment before the inflection (its slope is added to all later segments up to there) and one for each
    behind it (its slope is added to all earlier segments down to there), plus a constant.
    """
    from scipy.optimize import nnls

    here = x[:, None]
    left = np.maximum(0.0, x[node] - np.maximum(here, x[None, :node]))
    right = np.maximum(0.0, x[None, node + 1 :] - np.maximum(here, x[node]))
    constant = np.ones((len(x), 1))
    columns = [left, right, constant]
    top = upper
    if top is None:
        top = float(y.max())
        columns.append(-constant)
    design = np.hstack(columns)
    coefficients, _ = nnls(design * root[:, None], (top - y) * root, maxiter=30 * len(x))
    fitted: Floats = top - design @ coefficients
    return fitted


def drop_near_ties(x: Floats, y: Floats, min_step: float) -> tuple[Floats, Floats]:
    """Of points that differ by less than `min_step` in `y`, keep the one that x as a function of y needs.

    x, y: float64 [n], both non-decreasing. On the top plateau that is the lowest rate that reaches it, on
    the foot the highest rate that is still there. Returns both axes, y rising by at least `min_step`.
    """
    foot = int(np.flatnonzero(y < y[0] + min_step)[-1])
    kept = [foot]
    for index in range(foot + 1, len(y)):
        if y[index] >= y[kept[-1]] + min_step:
            kept.append(index)
    return x[kept], y[kept]
