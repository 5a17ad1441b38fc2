"""Probe results on disk, by content: what was measured once is not measured again, also after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from codec_wrappers import __version__

CACHE_VARIABLE = "VCM_CACHE"


def default_cache_folder() -> Path | None:
    """$VCM_CACHE, else vcm-ratecontrol in the user's cache folder ($XDG_CACHE_HOME or ~/.cache).

    None for a user without a home.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    if general := os.environ.get("XDG_CACHE_HOME"):
        return Path(general) / "vcm-ratecontrol"
    try:
        return Path.home() / ".cache" / "vcm-ratecontrol"
    except RuntimeError:
        return None


class ProbeCache:
    """Small JSON files named by the hash of all that determines a result. A folder that cannot be written is
    no cache, not an error."""

    def __init__(self, folder: Path | None) -> None:
        """folder: None for no cache."""
        self._folder = folder / "probes" if folder is not None else None

    def get(self, key: dict[str, Any]) -> Any:
        """What was stored under a key, None when nothing (readable) was. The caller checks what it is."""
        if self._folder is None:
            return None
        try:
            return json.loads(self._path(key).read_text())
        except (OSError, ValueError):
            return None

    def put(self, key: dict[str, Any], value: dict[str, Any]) -> None:
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
            temporary = Path(name)
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump(value, file)
                temporary.replace(self._path(key))
            finally:
                temporary.unlink(missing_ok=True)

    def _path(self, key: dict[str, Any]) -> Path:
        assert self._folder is not None
        text = json.dumps({**key, "version": __version__}, sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def content_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
