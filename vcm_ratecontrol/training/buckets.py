"""Batches of one input size from pictures of many: each picture goes to the nearest size that is common enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.predictors.config import InputSpec
from vcm_ratecontrol.predictors.preprocess import input_size
from vcm_ratecontrol.training.objective import Draw, shuffled

Size = tuple[int, int]

LEAST_SHARE = 0.04
"""A size of fewer pictures than this share has no batches of its own."""


def input_sizes(heights: Sequence[int], widths: Sequence[int], spec: InputSpec) -> list[Size]:
    """Height and width of the network's input for each picture, rare ones replaced by the nearest common one."""
    wanted = [input_size(int(h), int(w), spec) for h, w in zip(heights, widths, strict=True)]
    counts = Counter(wanted)
    common = [size for size, count in counts.items() if count >= LEAST_SHARE * len(wanted)]
    common = sorted(common or [counts.most_common(1)[0][0]])
    places = np.log(np.array(common, np.float64))
    nearest = {}
    for size in counts:
        away = np.abs(places - np.log(np.array(size, np.float64))).sum(axis=1)
        nearest[size] = size if size in common else common[int(away.argmin())]
    return [nearest[size] for size in wanted]


def bucket_draws(
    rng: np.random.Generator,
    rows: npt.NDArray[np.int64],
    sizes: Sequence[Size],
    steps: int,
    batch_size: int,
) -> list[Draw]:
    """Batches of one size each, as often as there are pictures of it. sizes: of all samples, by row."""
    by_size: dict[Size, list[int]] = {}
    for row in rows.tolist():
        by_size.setdefault(sizes[row], []).append(row)
    kinds = sorted(by_size)
    share = np.array([len(by_size[size]) for size in kinds], np.float64)
    numbers = rng.multinomial(steps, share / share.sum())
    draws: list[Draw] = []
    for size, number in zip(kinds, numbers.tolist(), strict=True):
        if not number:
            continue
        order = shuffled(rng, np.array(by_size[size]), number * batch_size)
        for at in range(number):
            part = order[at * batch_size : (at + 1) * batch_size]
            draws.append(Draw(tuple(part.tolist()), int(rng.integers(0, 2**62)), size))
    return [draws[at] for at in rng.permutation(len(draws))]
