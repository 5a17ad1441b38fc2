"""Train, validation and test by picture: a stable function of its content alone."""

import hashlib
from typing import Literal

Split = Literal["train", "validation", "test"]

TRAIN_SHARE = 0.70
VALIDATION_SHARE = 0.15


def split_of(key: str) -> Split:
    """Split of a picture: 70 % train, 15 % validation, 15 % test.

    key: the picture's content hash; for frames of a clip the clip's, so that a clip is never divided.
    """
    digest = hashlib.sha256(b"vcm-ratecontrol split 1:" + key.encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < TRAIN_SHARE:
        return "train"
    return "validation" if position < TRAIN_SHARE + VALIDATION_SHARE else "test"
