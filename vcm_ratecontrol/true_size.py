"""The picture within its padding: 4:2:0 and the encoders want even sides of some length, pictures do not care.

An encoder's frames are padded at the right and below. Which part is the picture is in the container
tag `vcm` (JSON with `width` and `height`, in samples as coded, before rotation); raw streams have no tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from codec_wrappers.errors import InputError
from codec_wrappers.frames import VideoFormat, padded_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from vcm_ratecontrol.media.clip import Clip

    RGB = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TrueSize:
    """Width and height in samples of the picture as coded (before rotation), without padding."""

    width: int
    height: int


@dataclass(frozen=True)
class CroppedClip:
    """A clip seen without its padding."""

    clip: Clip
    size: TrueSize

    @property
    def format(self) -> VideoFormat:
        """Like `Clip.format`, of the true size; the packed frames that `Clip.read` yields fit to it."""
        return replace(self.clip.format, width=self.size.width, height=self.size.height)

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as a player shows the picture; the size of `read_rgb`'s frames."""
        rows, columns = self._window()
        return columns.stop - columns.start, rows.stop - rows.start

    def read_rgb(self, indices: Sequence[int] | None = None) -> Iterator[RGB]:
        """Like `Clip.read_rgb`, cropped."""
        rows, columns = self._window()
        for rgb in self.clip.read_rgb(indices):
            yield rgb[rows, columns]

    def _window(self) -> tuple[slice, slice]:
        """Rows and columns of the picture in an upright frame: padding may lie on any side after turning."""
        import numpy as np

        from vcm_ratecontrol.media.convert import upright

        clip, size = self.clip, self.size
        if (clip.width, clip.height) == (size.width, size.height):
            width, height = clip.upright_size
            return slice(0, height), slice(0, width)
        picture = np.zeros((clip.height, clip.width, 1), np.uint8)
        picture[: size.height, : size.width] = 1
        turned = upright(picture, clip.display_matrix)[..., 0]
        rows, columns = np.flatnonzero(turned.any(axis=1)), np.flatnonzero(turned.any(axis=0))
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def without_padding(clip: Clip) -> CroppedClip:
    """A clip cropped as its own tag says; whole where it has none.

    Raises InputError when the tag names a size that the frames cannot have been padded from.
    """
    return CroppedClip(clip, _tagged_size(clip) or TrueSize(clip.width, clip.height))


def cropped_to(encoded: Clip, original: Clip | CroppedClip) -> CroppedClip:
    """A coded clip cropped to the size of its original: by its tag, else by the padding that encoders add.

    Raises InputError when the two do not have the same size without padding.
    """
    from vcm_ratecontrol.media.convert import swaps_sides

    cropped = without_padding(encoded)
    wanted = original.upright_size
    if cropped.upright_size == wanted:
        return cropped
    swapped = encoded.display_matrix is not None and swaps_sides(encoded.display_matrix)
    size = TrueSize(wanted[1], wanted[0]) if swapped else TrueSize(*wanted)
    if (padded_length(size.width), padded_length(size.height)) == (encoded.width, encoded.height):
        return CroppedClip(encoded, size)
    has, wants = ("{}x{}".format(*pair) for pair in (cropped.upright_size, wanted))
    raise InputError(f"{encoded.path}: is {has}, the original {wants}; give the file that was coded from this original")


def _tagged_size(clip: Clip) -> TrueSize | None:
    tag = _tag(clip)
    if tag is None:
        return None
    try:
        found = json.loads(tag)
        size = TrueSize(int(found["width"]), int(found["height"]))
    except (ValueError, KeyError, TypeError):
        return None  # a tag of that name by somebody else
    for true, coded in ((size.width, clip.width), (size.height, clip.height)):
        if true < 1 or coded not in (true, padded_length(true)):
            raise InputError(
                f"{clip.path}: its tag 'vcm' says {size.width}x{size.height}, which does not fit frames of"
                f" {clip.width}x{clip.height}; it was changed after coding: encode it again"
            )
    return size


def _tag(clip: Clip) -> str | None:
    """The text of the tag, None where there is none. Matroska writes its name in capitals."""
    if clip.kind == "still":
        return None
    from codec_wrappers.join import TAG
    from vcm_ratecontrol.media.containers import open_container

    with open_container(clip.path) as container:
        tags = {**container.metadata}
    return next((text for name, text in tags.items() if name.lower() == TAG), None)
