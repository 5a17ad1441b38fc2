"""Recipes of training crops: which part of which picture, how coded, at which size. Small, and exact to repeat."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.encoder import get_encoder
from vcm_ratecontrol.training.coded import code_still, decode_kept
from vcm_ratecontrol.training.disk_cache import DiskCache
from vcm_ratecontrol.training.views import View

RGB = npt.NDArray[np.uint8]

#: Height and width of crops, about 384 x 384 pixels each; the photographs' usual aspects.
SIZES = ((384, 384), (320, 448), (448, 320))

MAX_CELLS = max(height // 16 * (width // 16) for height, width in SIZES)
"""Cells of 16 x 16 pixels of the largest crop."""

CODINGS = ("none", "jpeg", "vvenc", "x265")
"""How a crop is coded before anybody sees it; the number in a recipe is an index into this."""

LEAST_SCALE = 0.2
"""Share of a picture's smaller side that a crop has at least."""

QP_RANGE = (22, 47)
JPEG_RANGE = (8, 92)


@dataclass(frozen=True)
class Recipe:
    """source: index of the picture. box: left, top, right, bottom in its samples. size: index into SIZES.
    coding: index into CODINGS; quality: JPEG quality or QP; gain, offset: of brightness; split: 0 train, 1
    validation."""

    source: int
    box: tuple[int, int, int, int]
    size: int
    flip: bool
    coding: int
    quality: int
    gain: float
    offset: float
    split: int

    def to_row(self) -> list[float]:
        return [
            self.source, *self.box, self.size, self.flip, self.coding, self.quality, self.gain, self.offset, self.split
        ]  # fmt: skip

    @classmethod
    def from_row(cls, row: Sequence[float]) -> Recipe:
        left, top, right, bottom = (int(value) for value in row[1:5])
        return cls(
            int(row[0]), (left, top, right, bottom), int(row[5]), bool(row[6]), int(row[7]), int(row[8]),
            float(row[9]), float(row[10]), int(row[11]),
        )  # fmt: skip


ROW_LENGTH = 12


def draw_recipe(
    rng: np.random.Generator, source: int, width: int, height: int, split: int, codings: Sequence[float]
) -> Recipe:
    """A random crop of a picture of that size. codings: probability of each of CODINGS."""
    size = int(rng.integers(len(SIZES)))
    aspect = SIZES[size][1] / SIZES[size][0]
    largest = min(width / aspect, float(height))
    tall = largest * rng.uniform(LEAST_SCALE, 1.0) ** 0.5
    stretch = rng.uniform(0.9, 1.1)
    across, down = min(width, max(16, round(tall * aspect * stretch))), min(height, max(16, round(tall)))
    left, top = int(rng.integers(0, width - across + 1)), int(rng.integers(0, height - down + 1))
    coding = int(rng.choice(len(CODINGS), p=np.asarray(codings) / np.sum(codings)))
    quality = int(rng.integers(*(JPEG_RANGE if CODINGS[coding] == "jpeg" else QP_RANGE)))
    plain = rng.random() < 0.5
    return Recipe(
        source=source,
        box=(left, top, left + across, top + down),
        size=size,
        flip=bool(rng.random() < 0.5),
        coding=coding,
        quality=0 if CODINGS[coding] == "none" else quality,
        gain=1.0 if plain else round(float(rng.uniform(0.75, 1.25)), 3),
        offset=0.0 if plain else round(float(rng.uniform(-20, 20)), 1),
        split=split,
    )


def make_crop(recipe: Recipe, picture: RGB, key: str, cache: DiskCache) -> RGB:
    """The crop as teachers and student see it: uint8 [h, w, 3] of its size. key: the picture's content hash."""
    from PIL import Image

    left, top, right, bottom = recipe.box
    part = View(left, top, right, bottom, recipe.flip).of(picture)
    height, width = SIZES[recipe.size]
    image = Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR)
    crop = np.asarray(image)
    if recipe.gain != 1.0 or recipe.offset:
        crop = np.clip(crop * np.float32(recipe.gain) + np.float32(recipe.offset), 0, 255).round().astype(np.uint8)
    return _coded(crop, recipe, f"crop {key} {recipe.to_row()}", cache)


def _coded(crop: RGB, recipe: Recipe, name: str, cache: DiskCache) -> RGB:
    coding = CODINGS[recipe.coding]
    if coding == "none":
        return crop
    if coding == "jpeg":
        from PIL import Image

        sink = io.BytesIO()
        Image.fromarray(crop).save(sink, "JPEG", quality=recipe.quality)
        with Image.open(sink) as image:
            return np.asarray(image.convert("RGB"))
    encoder = get_encoder(coding)
    kept = cache.get(name)
    if kept is None:
        kept = code_still(crop, recipe.quality, encoder, _fastest_preset(coding))
        cache.put(name, kept)
    return decode_kept(kept, recipe.quality, encoder)


@functools.cache
def _fastest_preset(encoder: str) -> str | None:
    presets = get_encoder(encoder).capabilities().presets
    return presets[0] if presets else None
