"""One decode of a clip for many consumers: scene cuts, sampled frames, statistics. Memory does not grow.

A frame is shown to each consumer that wants it as a `FrameView`, which converts it at most once per form
however many consumers ask. Consumers run in the calling thread, in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from codec_wrappers.frames import PixelFormat
from vcm_ratecontrol.media.clip import Clip

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt


class FrameView:
    """A decoded frame in whatever form is asked for, valid while `Consumer.feed` runs.

    Arrays are shared between consumers: read only.
    """

    def __init__(self, clip: Clip, index: int, frame: av.VideoFrame) -> None:
        self.index = index
        self._clip = clip
        self._frame = frame
        self._rgb: npt.NDArray[np.uint8] | None = None
        self._packed: dict[PixelFormat, bytes] = {}
        self._reduced: dict[int, npt.NDArray[np.uint8]] = {}

    def rgb(self) -> npt.NDArray[np.uint8]:
        """Upright RGB as `Clip.read_rgb` gives it, uint8 [H, W, 3]."""
        from vcm_ratecontrol.media.convert import frame_to_rgb, upright

        if self._rgb is None:
            self._rgb = upright(frame_to_rgb(self._frame, self._clip.color), self._clip.display_matrix)
            self._rgb.flags.writeable = False
        return self._rgb

    def packed(self, pix_fmt: PixelFormat) -> bytes:
        """Planes as `Clip.read` gives them."""
        from vcm_ratecontrol.media.convert import pack_frame

        if pix_fmt not in self._packed:
            self._packed[pix_fmt] = pack_frame(self._frame, pix_fmt, self._clip.format)
        return self._packed[pix_fmt]

    def luma(self) -> npt.NDArray[np.uint8]:
        """Luma of 8 bits in the clip's own range, uint8 [height, width], not turned."""
        import numpy as np

        target = self._clip.format
        samples = np.frombuffer(self.packed("yuv420p"), np.uint8, target.padded_width * target.padded_height)
        return samples.reshape(target.padded_height, -1)[: target.height, : target.width]

    def reduced_bgr(self, width: int) -> npt.NDArray[np.uint8]:
        """A small BGR picture about `width` wide (whole fraction of the size), for detectors; not turned.

        Quick, not exact: colours by swscale's default matrix. uint8 [h, w, 3].
        """
        from av.video.reformatter import Interpolation

        from vcm_ratecontrol.media.convert import frame_samples

        if width not in self._reduced:
            frame = self._frame
            part = max(1, round(frame.width / width))
            small = frame.reformat(
                width=max(1, frame.width // part),
                height=max(1, frame.height // part),
                format="bgr24",
                interpolation=Interpolation.FAST_BILINEAR if part < 3 else Interpolation.AREA,
            )
            self._reduced[width] = frame_samples(small, 0, 3, "u1").copy()
        return self._reduced[width]


class Consumer(Protocol):
    """Something that looks at frames of the pass."""

    def wants(self, index: int) -> bool:
        """Whether it wants to be fed this frame; asked once per frame, in order."""
        ...

    def feed(self, view: FrameView) -> None:
        """Look at a frame. Must not keep the view."""
        ...

    def finish(self) -> None:
        """Called once after the last frame; not when the pass fails."""
        ...


def fan_out(
    clip: Clip,
    consumers: Sequence[Consumer],
    *,
    start: int = 0,
    stop: int | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> None:
    """Decode frames start..stop-1 once and feed them to the consumers that want them.

    on_frame: called as on_frame(frames done, frames in all), for a progress display.
    Raises InputError when the clip does not decode, whatever a consumer raises, ValueError for a range
    outside.
    """
    last = clip.n_frames if stop is None else stop
    if not 0 <= start <= last <= clip.n_frames:
        raise ValueError(f"frames {start}..{last} are not within the {clip.n_frames} of {clip.path}")
    for index, frame in _frames(clip, start, last):
        takers = [consumer for consumer in consumers if consumer.wants(index)]
        if takers:
            view = FrameView(clip, index, frame)
            for consumer in takers:
                consumer.feed(view)
        if on_frame is not None:
            on_frame(index + 1 - start, last - start)
    for consumer in consumers:
        consumer.finish()


def _frames(clip: Clip, start: int, stop: int) -> Iterable[tuple[int, av.VideoFrame]]:
    if start == stop:
        return
    if clip.kind == "still":
        import av

        from vcm_ratecontrol.media.stills import load_still

        yield 0, av.VideoFrame.from_ndarray(load_still(clip.path), format="rgb24")
        return
    from vcm_ratecontrol.media.decode import FrameDecoder

    with FrameDecoder(clip) as decoder:
        yield from enumerate(decoder.frames(start, stop), start)


class RGBSampler:
    """A consumer that hands chosen frames on as upright RGB, one at a time.

    indices: which frames (a set, a range, anything with `in`); take: called as take(index, uint8 RGB [H, W,
    3]).
    """

    def __init__(self, indices: Iterable[int], take: Callable[[int, npt.NDArray[np.uint8]], None]) -> None:
        self._indices = indices if isinstance(indices, range) else frozenset(indices)
        self._take = take

    def wants(self, index: int) -> bool:
        return index in self._indices

    def feed(self, view: FrameView) -> None:
        self._take(view.index, view.rgb())

    def finish(self) -> None:
        pass


class LumaStatistics:
    """A consumer that measures each frame's luma, in 8-bit code values of the clip's own range.

    Every second sample of every second row is taken: these are statistics, and cost a quarter so.

    mean, deviation: of the samples of each frame, in order. change: mean absolute difference to the frame
    before (0 for the first), a cheap measure of motion. Three floats per frame are kept.
    """

    def __init__(self) -> None:
        self.mean: list[float] = []
        self.deviation: list[float] = []
        self.change: list[float] = []
        self._previous: npt.NDArray[np.int16] | None = None

    def wants(self, index: int) -> bool:
        return True

    def feed(self, view: FrameView) -> None:
        import numpy as np

        luma = view.luma()[::2, ::2].astype(np.int16)
        self.mean.append(float(luma.mean()))
        self.deviation.append(float(luma.std()))
        before = self._previous
        self.change.append(0.0 if before is None else float(np.abs(luma - before).mean()))
        self._previous = luma

    def finish(self) -> None:
        self._previous = None
