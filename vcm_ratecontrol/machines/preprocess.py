"""From a picture to network inputs; each distinct geometry and tensor is made once per picture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .manifest import Geometry, Normalisation

if TYPE_CHECKING:
    from PIL import Image


class Placement(NamedTuple):
    """x_picture = (x_network - offset_x) / scale_x, likewise y."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


class InputFormat(NamedTuple):
    """What a network takes. quantisation: (scale, zero point) of an integer input; None: plain values."""

    normalisation: Normalisation
    layout: str
    dtype: str
    quantisation: tuple[float, float] | None


class PreparedPicture:
    """One picture (uint8 [H, W, 3] RGB) with everything derived from it that several machines can share.

    Holds references to the derived arrays: make one per picture and drop it after the machines have run.
    The arrays it returns are shared and must not be written to.
    """

    def __init__(self, rgb: npt.NDArray[np.uint8]) -> None:
        from PIL import Image

        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
            raise ValueError(f"a picture is uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
        self.height, self.width = rgb.shape[:2]
        self._image: Image.Image = Image.fromarray(np.ascontiguousarray(rgb))
        self._resized: dict[tuple[int, ...], npt.NDArray[np.uint8]] = {}
        self._placed: dict[Geometry, tuple[npt.NDArray[np.uint8], Placement]] = {}
        self._tensors: dict[tuple[Geometry, InputFormat], npt.NDArray[np.generic]] = {}

    def placed(self, geometry: Geometry) -> tuple[npt.NDArray[np.uint8], Placement]:
        """The picture as uint8 [height, width, 3] RGB of the geometry's size, and where it lies in it."""
        known = self._placed.get(geometry)
        if known is None:
            known = self._placed[geometry] = self._place(geometry)
        return known

    def tensor(self, geometry: Geometry, form: InputFormat) -> npt.NDArray[np.generic]:
        """The network input with a leading batch axis of 1."""
        key = (geometry, form)
        known = self._tensors.get(key)
        if known is None:
            known = self._tensors[key] = to_tensor(self.placed(geometry)[0], form)
        return known

    def _place(self, geometry: Geometry) -> tuple[npt.NDArray[np.uint8], Placement]:
        if geometry.view is not None:
            return self._place_view(geometry, geometry.view)
        (width, height), w, h = geometry.size, self.width, self.height
        if geometry.rule == "fraction":
            side = max(1, int(min(w, h) * geometry.value))
            left, top = (w - side) // 2, (h - side) // 2
            return self._resize(width, height, (left, top, left + side, top + side)), Placement(1, 1, 0, 0)
        if geometry.rule == "crop":
            return self._centre_crop(geometry), Placement(1, 1, 0, 0)
        if geometry.rule in ("stretch", "direct"):
            return self._resize(width, height), Placement(width / w, height / h, 0, 0)
        scale = min(width / w, height / h)
        new_w, new_h = max(1, round(w * scale)), max(1, round(h * scale))
        centred = geometry.rule == "letterbox"
        left, top = ((width - new_w) // 2, (height - new_h) // 2) if centred else (0, 0)
        canvas = np.full((height, width, 3), geometry.pad, np.uint8)
        canvas[top : top + new_h, left : left + new_w] = self._resize(new_w, new_h)
        return canvas, Placement(scale, scale, left, top)

    def _place_view(self, geometry: Geometry, view: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], Placement]:
        """The picture as a camera of `view` pixels gives it, brought to the network's size."""
        from PIL import Image

        (width, height), (view_width, view_height) = geometry.size, view
        seen, place = self.placed(replace(geometry, size=view, view=None))
        grown = np.asarray(Image.fromarray(seen).resize((width, height), Image.Resampling.BILINEAR))
        x, y = width / view_width, height / view_height
        return grown, Placement(place.scale_x * x, place.scale_y * y, place.offset_x * x, place.offset_y * y)

    def _centre_crop(self, geometry: Geometry) -> npt.NDArray[np.uint8]:
        short, (width, height), w, h = round(geometry.value), geometry.size, self.width, self.height
        scale = short / min(w, h)
        new_w, new_h = max(short, round(w * scale)), max(short, round(h * scale))
        left, top = (new_w - width) // 2, (new_h - height) // 2
        resized = self._resize(new_w, new_h)
        if left >= 0 and top >= 0:
            return resized[top : top + height, left : left + width]
        from PIL import Image

        # A crop larger than the resized picture: Pillow fills with black.
        return np.asarray(Image.fromarray(resized).crop((left, top, left + width, top + height)))

    def _resize(self, width: int, height: int, box: tuple[int, ...] = ()) -> npt.NDArray[np.uint8]:
        key = (width, height, *box)
        known = self._resized.get(key)
        if known is None:
            from PIL import Image

            # Cropped first, not through resize(box=): that would let pixels outside the crop bleed in.
            image = self._image.crop((box[0], box[1], box[2], box[3])) if box else self._image
            known = self._resized[key] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return known


def to_tensor(rgb: npt.NDArray[np.uint8], form: InputFormat) -> npt.NDArray[np.generic]:
    """uint8 [H, W, 3] RGB -> [1, 3, H, W] or [1, H, W, 3] in the network's dtype and channel order."""
    pixels = rgb[..., ::-1] if form.normalisation.color == "BGR" else rgb
    dtype = np.dtype(form.dtype)
    if dtype.kind in "iu":
        return _quantised(pixels, form, dtype)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)) if form.layout == "NCHW" else pixels
    shape = (3, 1, 1) if form.layout == "NCHW" else (3,)
    mean = np.asarray(form.normalisation.mean, np.float32).reshape(shape)
    std = np.asarray(form.normalisation.std, np.float32).reshape(shape)
    values = planes.astype(np.float32, order="C")
    if mean.any():
        values -= mean
    if (std != 1).any():
        values /= std
    return np.ascontiguousarray(values, dtype)[None]


def _quantised(pixels: npt.NDArray[np.uint8], form: InputFormat, dtype: np.dtype[Any]) -> npt.NDArray[np.generic]:
    """A byte has 256 values: the whole arithmetic is a table per channel, applied at memory speed."""
    tables = quantisation_tables(form, dtype)
    if (tables == tables[0]).all():
        table = tables[0].tobytes()
        raw = np.ascontiguousarray(pixels)
        if table != bytes(range(256)):
            raw = np.frombuffer(raw.tobytes().translate(table), np.uint8).reshape(pixels.shape)
    else:
        raw = np.stack([tables[c].view(np.uint8)[pixels[..., c]] for c in range(3)], -1)
    if form.layout == "NCHW":
        raw = np.ascontiguousarray(raw.transpose(2, 0, 1))
    return raw.view(dtype)[None]


def quantisation_tables(form: InputFormat, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """[3, 256] of dtype: the network's value of each byte, per channel."""
    byte = np.arange(256, dtype=np.float32)
    mean = np.asarray(form.normalisation.mean, np.float32)[:, None]
    std = np.asarray(form.normalisation.std, np.float32)[:, None]
    values = (byte[None] - mean) / std
    if form.quantisation is not None:
        values = values / form.quantisation[0] + form.quantisation[1]
    info = np.iinfo(dtype)
    return np.clip(np.round(values), info.min, info.max).astype(dtype)
