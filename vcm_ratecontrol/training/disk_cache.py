"""Bytes by name in a folder that never grows beyond its bound: what was used longest ago goes first."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from pathlib import Path

from codec_wrappers.errors import OutputError

SUFFIX = ".bin"


class DiskCache:
    """Safe for threads of one process; several processes may share a folder, each keeps the bound by its own count."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """max_bytes: of all entries together. Raises OutputError when the folder cannot be made."""
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            entries = [(path.stat(), path) for path in self.folder.glob(f"*/*{SUFFIX}")]
        except OSError as error:
            raise OutputError(f"{folder}: no cache can be kept there ({error.strerror or error})") from error
        entries.sort(key=lambda entry: entry[0].st_mtime_ns)
        # In the order of last use: a dictionary keeps that of insertion.
        self._sizes = {path.name: status.st_size for status, path in entries}
        self._total = sum(self._sizes.values())

    def get(self, key: str) -> bytes | None:
        """What was put under this name, None when it is not there (any more)."""
        name = _name(key)
        path = self._path(name)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        with self._lock:
            if name in self._sizes:
                self._sizes[name] = self._sizes.pop(name)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep the bytes, and drop others if need be. What does not fit at all is not kept.

        Raises OutputError when the folder cannot be written.
        """
        if len(content) > self.max_bytes:
            return
        name = _name(key)
        path = self._path(name)
        try:
            path.parent.mkdir(exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error}); free some space") from error
        with self._lock:
            self._total += len(content) - self._sizes.pop(name, 0)
            self._sizes[name] = len(content)
            self._make_room()

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def total_bytes(self) -> int:
        return self._total

    def _make_room(self) -> None:
        while self._total > self.max_bytes:
            oldest = next(iter(self._sizes))
            self._total -= self._sizes.pop(oldest)
            with contextlib.suppress(OSError):
                self._path(oldest).unlink()

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40] + SUFFIX
