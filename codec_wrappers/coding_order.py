"""The order in which a hierarchy of B pictures is coded, which is not the order in which they are shown."""


def dyadic_order(n_frames: int, gop: int) -> list[int]:
    """Display indices of `n_frames` frames in coding order, for groups of `gop` frames (a power of two).

    A group's last picture comes first, then the middle, then the middles of both halves, and so on. A last
    group that is cut short keeps this order without the frames that are not there, as kvazaar does it.
    """
    order = [0]
    for before in range(0, n_frames - 1, gop):
        order += [before + at for at in (gop, *_between(0, gop)) if before + at < n_frames]
    return order


def _between(low: int, high: int) -> list[int]:
    if high - low < 2:
        return []
    middle = (low + high) // 2
    return [middle, *_between(low, middle), *_between(middle, high)]
