"""Frames of a video by their index: one open container that seeks where that is exact.

A frame is known by its timestamp: `Clip.pts` names each one. A seek goes to the key frame at or before the
first wanted frame; should decoding then begin too late or on a broken reference (open GOP, intra refresh,
inexact index), the decoder starts again further back, in the end from the beginning. Containers without
timestamps to trust are always decoded from the beginning, frames counted.

Damage is an error, not patched over: what is coded from a concealed frame would be labelled wrongly.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from codec_wrappers.errors import InputError
from vcm_ratecontrol.media.clip import Clip
from vcm_ratecontrol.media.containers import check_frame, damaged, decoded, open_container, video_stream

if TYPE_CHECKING:
    import av

# A seek costs about as much as decoding this many frames more (decoder restart, reordering delay).
SEEK_WORTH_FRAMES = 8


class FrameDecoder:
    """Decodes frames of one video clip. Holds an open container: a context manager, for one thread."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._container = open_container(clip.path)
        self._fresh = True
        # For a decoder that has been given a position: the running decode and the index that it yields next.
        self._running: Iterator[tuple[int, av.VideoFrame]] | None = None
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = None
        self._container.close()

    def frames(self, start: int, stop: int) -> Iterator[av.VideoFrame]:
        """Yield frames start..stop-1. Raises InputError when they cannot be decoded exactly."""
        return self.picked(range(start, stop))

    def picked(self, indices: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Yield the frames of rising `indices`, seeking where a key frame lies between two of them.

        Raises InputError when the file is damaged or truncated or its pictures change in size.
        """
        for index in indices:
            frame = self._frame(index)
            check_frame(self._clip.path, index, frame, self._clip.width, self._clip.height)
            yield frame

    def _frame(self, index: int) -> av.VideoFrame:
        key = self._key_before(index)
        running = self._running
        if running is None or index < self._next or key - self._next >= SEEK_WORTH_FRAMES:
            return self._frame_after_seek(index, key)
        frame = self._advance(running, index)
        if frame is None:
            raise self._truncated(self._next)
        return frame

    def _frame_after_seek(self, index: int, key: int) -> av.VideoFrame:
        """Start decoding at or before `index`, further back each time it does not lead there."""
        position = bisect_left(self._clip.keyframes, key)
        starts = [key, self._clip.keyframes[position - 2], 0] if key and position > 2 else [key, 0]
        for start in dict.fromkeys(starts):
            try:
                self._running = self._decode_from(start)
                frame = self._advance(self._running, index)
            except InputError:
                if start == 0:
                    raise
                continue
            if frame is not None:
                return frame
        raise self._truncated(index)

    def _advance(self, running: Iterator[tuple[int, av.VideoFrame]], index: int) -> av.VideoFrame | None:
        """Decode up to frame `index`; None at the end of the file."""
        for found, frame in running:
            if found < index:
                self._next = found + 1
                continue
            if found > index:
                raise self._damaged(f"frame {index} does not decode")
            self._next = found + 1
            return frame
        return None

    def _key_before(self, index: int) -> int:
        position = bisect_right(self._clip.keyframes, index)
        return self._clip.keyframes[position - 1] if position else 0

    def _decode_from(self, start: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) from key frame `start` on. Raises InputError."""
        import av

        clip = self._clip
        if not self._fresh and start == 0:
            self._container.close()
            self._container = open_container(clip.path)
        self._fresh = False
        stream = video_stream(self._container, clip.video_stream)
        counted = itertools.count()
        try:
            if start:
                self._container.seek(clip.pts[start], stream=stream, backward=True)
            for frame in decoded(self._container, stream, clip.pts[start] if start else None):
                index = self._index_of(frame, counted)
                if index is None or index < start:
                    continue
                if frame.is_corrupt:  # those that refer to it would look whole
                    raise self._damaged(f"frame {index} is incomplete")
                yield index, frame
        except av.FFmpegError as error:
            raise self._damaged(" ".join(str(error.strerror or error).split())) from error

    def _index_of(self, frame: av.VideoFrame, counted: Iterator[int]) -> int | None:
        """Index of a decoded frame; None for one before the first that is shown."""
        clip = self._clip
        if not clip.keyframes:
            return next(counted)
        if frame.pts is None:
            raise self._damaged("a frame without a timestamp")
        index = bisect_left(clip.pts, frame.pts)
        if index < clip.n_frames and clip.pts[index] == frame.pts:
            return index
        if frame.pts < clip.pts[0]:
            return None
        raise self._damaged(f"a frame at an unexpected time after frame {index - 1}")

    def _damaged(self, reason: str) -> InputError:
        return damaged(self._clip.path, reason)

    def _truncated(self, index: int) -> InputError:
        return self._damaged(f"it ends before frame {index} of {self._clip.n_frames}")
