"""The log of a run: one CSV line per epoch, and the same for TensorBoard where it is installed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codec_wrappers.errors import OutputError

LOG_FILE = "log.csv"


class RunLog:
    """Lines of epoch and figures. Columns are those of the first line; a figure that comes later is left out."""

    def __init__(self, folder: Path, finished: int = 0, tensorboard: bool = True) -> None:
        """finished: epochs of an earlier run that are kept; what it wrote beyond them is dropped.

        Raises OutputError when the folder cannot be written.
        """
        self._path = folder / LOG_FILE
        self._writer = _tensorboard(folder / "tensorboard", finished) if tensorboard else None
        kept = [row for row in self.rows() if int(row["epoch"]) <= finished]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("w", newline="") as file:
                if kept:
                    table = csv.DictWriter(file, list(kept[0]))
                    table.writeheader()
                    table.writerows(kept)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror or error})") from error

    def rows(self) -> list[dict[str, str]]:
        """What the file holds."""
        if not self._path.is_file():
            return []
        with self._path.open(newline="") as file:
            return [dict(row) for row in csv.DictReader(file) if (row.get("epoch") or "").isdigit()]

    def write(self, epoch: int, figures: Mapping[str, float]) -> None:
        """One line, on the disk when this returns."""
        rows = self.rows()
        columns = list(rows[0]) if rows else ["epoch", *figures]
        line = {"epoch": epoch, **{name: f"{value:.6g}" for name, value in figures.items()}}
        try:
            with self._path.open("a", newline="") as file:
                table = csv.DictWriter(file, columns, extrasaction="ignore")
                if not rows:
                    table.writeheader()
                table.writerow(line)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror or error})") from error
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name.replace(" ", "/", 1), value, epoch)
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _tensorboard(folder: Path, finished: int) -> Any:
    """TensorBoard's writer, None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=finished + 1)
