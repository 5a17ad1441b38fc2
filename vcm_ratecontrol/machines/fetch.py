"""Fetching a file by URL and SHA-256 into a cache: resumed after a break, always checked."""

from __future__ import annotations

import fcntl
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from codec_wrappers.errors import InputError, MissingToolError, OutputError

CACHE_VARIABLE = "VCM_CACHE"
_CHUNK = 1 << 20
# A server that is silent for so long is taken for dead.
TIMEOUT_S = 30.0


def cache_directory() -> Path:
    """$VCM_CACHE, else vcm-ratecontrol in $XDG_CACHE_HOME or ~/.cache (XDG base directories)."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vcm-ratecontrol"


def fetch(url: str, sha256: str, cache: Path | None = None, timeout_s: float = TIMEOUT_S) -> Path:
    """The file of this SHA-256 (64 hexadecimal digits), from the cache or else from the URL (http, https).

    It lies at CACHE/models/SHA256/NAME. A broken transfer leaves NAME.part, which the next call continues.
    Several processes may ask at once: one transfers, the others wait.
    Raises InputError (not such a URL or checksum), MissingToolError (not reachable, wrong checksum),
    OutputError (the cache cannot be written).
    """
    sha256 = sha256.lower()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(f"{url}: not an http or https URL; correct 'url' in the manifest")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise InputError(f"{url}: '{sha256}' is no SHA-256; correct 'sha256' in the manifest")
    folder = (cache or cache_directory()) / "models" / sha256
    target = folder / (Path(parts.path).name or "model")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            if not (target.is_file() and _hash(target) == sha256):
                _transfer(url, sha256, target, timeout_s)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise MissingToolError(
            f"{url}: cannot be fetched ({reason}); check the network, or put the file into the library"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot write the cache ({error.strerror}); set {CACHE_VARIABLE} to another folder"
        ) from error
    return target


def _transfer(url: str, sha256: str, target: Path, timeout_s: float) -> None:
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    _download(url, part, have, timeout_s)
    actual = _hash(part)
    if actual != sha256 and have:
        # The beginning may be another file's: once more from nothing.
        _download(url, part, 0, timeout_s)
        actual = _hash(part)
    if actual != sha256:
        part.unlink()
        raise MissingToolError(
            f"{url}: wrong checksum: SHA-256 is {actual[:12]}.., wanted {sha256[:12]}..; the file has changed"
            " there, correct the manifest or use another source"
        )
    part.replace(target)


def _download(url: str, part: Path, have: int, timeout_s: float) -> None:
    headers = {"User-Agent": "vcm-ratecontrol", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response: Any = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing after what is here: it is whole, or it is another file
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        expected = response.headers.get("Content-Length")
        received = 0
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            received += len(chunk)
        if expected is not None and received < int(expected):
            raise ConnectionError(f"the connection broke after {received} of {expected} bytes")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
