"""Which frames of a segment are looked at when not all are."""


def sample_indices(segment: range, n: int) -> tuple[int, ...]:
    """Frames in the middle of `n` equal parts of a segment, rising; all where there are no more than n.

    segment: frame indices, step 1, not empty. n: at least 1. Raises ValueError otherwise.
    """
    if n < 1 or len(segment) == 0 or segment.step != 1:
        raise ValueError(f"cannot sample {n} frames of {segment}")
    n = min(n, len(segment))
    return tuple(segment.start + (2 * part + 1) * len(segment) // (2 * n) for part in range(n))
