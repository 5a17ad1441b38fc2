"""What the teachers say of crops, on disk: an index and shards of 16-bit numbers, about 3 kB a crop.

index.json            machines, sources, sizes of crops, what made it
shards/NNNNNN.npz     256 crops each: recipes and targets
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import CacheError, OutputError
from vcm_ratecontrol.training.crop_sources import CropSource

VERSION = 1
SHARD = 256
INDEX = "index.json"


@dataclass(frozen=True)
class TeacherIndex:
    """machines: names, one column of `confidence` each, in the order of the library. teachers: those of them that were
    asked; the others' columns are empty. n_classes: of the classifiers. seed: of the recipes."""

    machines: tuple[str, ...]
    teachers: tuple[str, ...]
    sources: tuple[CropSource, ...]
    n_classes: int
    seed: int

    def to_json(self) -> str:
        values: dict[str, Any] = {"version": VERSION, "machines": self.machines, "teachers": self.teachers}
        values |= {"n_classes": self.n_classes, "seed": self.seed, "sources": [s.to_json() for s in self.sources]}
        return json.dumps(values, indent=0)

    @classmethod
    def from_json(cls, text: str) -> TeacherIndex:
        values = json.loads(text)
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}")
        sources = tuple(CropSource(**source) for source in values["sources"])
        return cls(
            tuple(values["machines"]), tuple(values["teachers"]), sources, int(values["n_classes"]), int(values["seed"])
        )


@dataclass(frozen=True, eq=False)
class TeacherShard:
    """n crops. recipes: float64 [n, ROW_LENGTH]; confidence: float16 [n, T], NaN where not asked; probabilities:
    float16 [n, classes], mean of the classifiers; class_scores: float16 [n, 80], highest detection of each class, mean
    of the detectors; summaries: float16 [n, 8]; maps: uint8 [n, 2, MAX_CELLS], share of the detectors that see an
    object in the cell, and how sure these are, both times 255; cells row by row, then zeros."""

    recipes: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float16]
    probabilities: npt.NDArray[np.float16]
    class_scores: npt.NDArray[np.float16]
    summaries: npt.NDArray[np.float16]
    maps: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.recipes)


class TeacherCache:
    """A folder of teachers' answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def index(self) -> TeacherIndex | None:
        """None where there is none yet. Raises CacheError for a damaged one."""
        path = self.folder / INDEX
        if not path.is_file():
            return None
        try:
            return TeacherIndex.from_json(path.read_text())
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CacheError(
                f"{path}: no index of this version ({error}); delete the folder and make it anew"
            ) from None

    def write_index(self, index: TeacherIndex) -> None:
        _replace(self.folder / INDEX, index.to_json().encode())

    def shard_numbers(self) -> list[int]:
        """Numbers of the shards that are there, rising."""
        return sorted(int(path.stem) for path in (self.folder / "shards").glob("*.npz") if path.stem.isdigit())

    def total_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "shards").glob("*.npz"))

    def write_shard(self, number: int, shard: TeacherShard) -> None:
        """Raises OutputError."""
        path = self._path(number)
        temporary = path.with_name(f"{path.stem}.tmp.npz")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(temporary, **{name: getattr(shard, name) for name in shard.__dataclass_fields__})
            temporary.replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error}); free some space") from error

    def read_shard(self, number: int) -> TeacherShard:
        """Raises CacheError for a damaged one."""
        path = self._path(number)
        try:
            with np.load(path) as arrays:
                return TeacherShard(**{name: arrays[name] for name in TeacherShard.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CacheError(f"{path}: damaged ({error}); delete it and run vcm-train distil again") from None

    def read(self, numbers: Sequence[int] | None = None) -> TeacherShard:
        """Several shards as one (default: all). Raises CacheError when there are none."""
        shards = [self.read_shard(number) for number in (self.shard_numbers() if numbers is None else numbers)]
        if not shards:
            raise CacheError(f"{self.folder}: holds no answers of teachers; make them with vcm-train distil")
        names = TeacherShard.__dataclass_fields__
        return TeacherShard(**{name: np.concatenate([getattr(shard, name) for shard in shards]) for name in names})

    def _path(self, number: int) -> Path:
        return self.folder / "shards" / f"{number:06d}.npz"


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
