"""Which level of each item to measure next, when the machines that measure are the ones that count.

Then luck is real: a picture on which they happen to agree at a high level may be coded there. The exhaustive choice
takes every such level, and planning on smooth curves alone none. So each round measures, of every item, the level
that promises most among those not yet tried: the least bits - price * SMR. The price of SMR that meets the target by
what is believed (the Lagrangian's) is too high while luck is still to be found: early rounds dare more, at higher
levels, and the last ones settle. Choosing among the measured levels then keeps what was found.

`vcm-train evaluate` prints what three probes save beside the exhaustive choice, and `bin/build-benchmarks stills-known`
what they save in encodes: about 90 % of it. Shares were chosen on training pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcm_ratecontrol.ratecontrol.pooling import TOLERANCE

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Shares of the price in the last round, the one before, and all earlier ones.
PRICE_SHARES = (0.8, 0.5, 0.3)
# Levels nearer than this to a measured one would mostly repeat it.
MIN_GAP = 2
_BISECTIONS = 60


def next_levels(
    smr: Floats,
    bits: Floats,
    levels: Floats,
    tried: Flags,
    share: Floats,
    target: float,
    left: int,
    min_gap: float = MIN_GAP,
) -> NDArray[np.intp]:
    """The column of each item that is worth measuring next; -1 where nothing is left to measure.

    smr: float64 [items, levels], 0..1, measured where tried and believed elsewhere; bits: float64 [items, levels];
    levels: float64 [levels], rising; tried: bool [items, levels]; share: float64 [items], weights of the mean, sum 1;
    target: wanted mean SMR, 0..1. left: rounds that are left, this one included.
    min_gap: levels nearer than this to a measured one are left out.
    """
    price = PRICE_SHARES[min(left, len(PRICE_SHARES)) - 1] * price_of(smr, bits, share, target)
    near = np.abs(levels[:, None] - levels[None]) < min_gap
    open_to = ~(tried @ near)
    cost = np.where(open_to, bits - price * share[:, None] * smr, np.inf)
    return np.where(open_to.any(axis=1), cost.argmin(axis=1), -1)


def price_of(smr: Floats, bits: Floats, share: Floats, target: float) -> float:
    """Bits that a unit of mean SMR costs where the items' mean just meets the target: the Lagrangian's multiplier.

    Arguments as `next_levels`. The highest price tried where the target is out of reach.
    """
    low, high = 1.0, 1e3 * float(bits.max()) / max(float(share.min()), 1e-12)
    rows = np.arange(len(smr))
    for _ in range(_BISECTIONS):
        price = float(np.sqrt(low * high))
        chosen = (bits - price * share[:, None] * smr).argmin(axis=1)
        if float(share @ smr[rows, chosen]) >= target - TOLERANCE:
            high = price
        else:
            low = price
    return high
