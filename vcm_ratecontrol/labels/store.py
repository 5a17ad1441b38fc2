"""The table on disk: finished pictures as parts, parts gathered into shards, both written atomically.

A label folder (any fsspec path) holds

    dataset.json             what made it: schema version, encoder, preset, coding, QPs, machines, hashes
    shards/NN.parquet        rows of the pictures whose hash falls into bucket NN; same bytes when made again
    pictures.parquet         one row per picture: size, source name, split
    parts/HASH.parquet       finished pictures that are not in a shard yet (gone when the run ends)
"""

from __future__ import annotations

import contextlib
import errno
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from codec_wrappers.errors import CacheError, InputError, OutputError
from vcm_ratecontrol.labels.dataset import DatasetConfig
from vcm_ratecontrol.labels.schema import SCHEMA_VERSION, label_schema, picture_schema
from vcm_ratecontrol.labels.tables import parquet_bytes, rows_table, sort_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec import AbstractFileSystem

BUCKETS = 16


class LabelStore:
    """One label folder. Workers may share it: each file is written under a temporary name and renamed."""

    def __init__(self, url: str) -> None:
        """url: a folder's path, or an fsspec URL such as s3://bucket/labels."""
        self.url = str(url).rstrip("/")

    def __reduce__(self) -> tuple[type[LabelStore], tuple[str]]:
        return LabelStore, (self.url,)

    @cached_property
    def _place(self) -> tuple[AbstractFileSystem, str]:
        from fsspec.core import url_to_fs

        try:
            fs, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise InputError(f"{self.url}: no such kind of storage here ({error})") from error
        return fs, str(root)

    @property
    def _fs(self) -> AbstractFileSystem:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1]

    def open(self, config: DatasetConfig) -> None:
        """Create the folder, or check that it was made with `config`, and drop what a killed run left half done.

        Raises CacheError saying what differs, OutputError when it cannot be written.
        """
        existing = self.config()
        if existing is None:
            self._write(f"{self._root}/dataset.json", config.to_json().encode())
        elif different := config.differences(existing):
            raise CacheError(f"{self.url}: made with other settings ({'; '.join(different)}); use another --out")
        self._remove_temporary()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder for one run at a time (where it lies on this computer's own file system).

        Two runs at once would do the same pictures twice. Raises CacheError when another run holds it.
        """
        if "file" not in self._fs.protocol:
            yield
            return
        import fcntl

        self._fs.makedirs(self._root, exist_ok=True)
        path = f"{self._root}/.lock"
        with self._fs.open(path, "wb") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CacheError(f"{self.url}: another run is writing there; wait for it") from error
            except OSError:
                pass  # A file system without locks: as on remote storage.
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    self._fs.rm_file(path)

    def config(self) -> DatasetConfig | None:
        """What the folder was made with, None when it is new. Raises CacheError for another schema version."""
        path = f"{self._root}/dataset.json"
        if not self._fs.exists(path):
            return None
        try:
            return DatasetConfig.from_json(self._fs.cat_file(path))
        except CacheError as error:
            raise CacheError(f"{path}: {error}") from error

    def finished(self) -> set[str]:
        """Hashes of the pictures that are annotated, in shards or parts: a shard that is gone is made again."""
        done = set(self._part_names())
        for path in self._shard_paths():
            done.update(self._read_rows(path, ["picture"])["picture"].unique().to_pylist())
        return done

    def write_part(self, picture: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
        """Store one finished picture: its line of the picture list and all its rows."""
        table = rows_table(rows)
        described = json.dumps(picture, sort_keys=True).encode()
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"picture": described})
        self._write(self._part_path(picture["picture"]), parquet_bytes(table))

    def gather(self) -> int:
        """Merge all parts into their shards and drop them; returns how many. Safe to kill and repeat."""
        import pyarrow as pa
        import pyarrow.compute as pc

        names = self._part_names()
        buckets: dict[int, list[str]] = {}
        for name in names:
            buckets.setdefault(bucket_of(name), []).append(name)
        described: list[dict[str, Any]] = []
        for bucket, members in sorted(buckets.items()):
            parts = [self._read_part(name) for name in members]
            described += [line for _, line in parts]
            tables = [table for table, _ in parts]
            path = f"{self._root}/shards/{bucket:02d}.parquet"
            if self._fs.exists(path):
                # A run killed between shard and picture list left the same pictures in both: once is enough.
                old = self._read_rows(path)
                mask = pc.is_in(old["picture"].cast(pa.string()), value_set=pa.array(members))
                tables.append(old.filter(pc.invert(mask)))
            self._write(path, parquet_bytes(sort_rows(pa.concat_tables(tables).unify_dictionaries())))
        if described:
            known = {row["picture"]: row for row in (*self._picture_lines(), *described)}
            lines = [known[key] for key in sorted(known)]
            self._write(self._pictures_path, parquet_bytes(pa.Table.from_pylist(lines, picture_schema())))
        for name in names:
            self._fs.rm_file(self._part_path(name))
        if self._fs.exists(f"{self._root}/parts"):
            self._fs.rmdir(f"{self._root}/parts")
        return len(names)

    def pictures(self) -> pa.Table:
        """The picture list (schema `picture_schema`), sorted by hash; pictures still in parts are in it.

        Raises InputError when there is none.
        """
        import pyarrow as pa

        known = {row["picture"]: row for row in self._picture_lines()}
        for name in self._part_names():
            known[name] = self._read_part(name, columns=["qp"])[1]
        if not known:
            raise self._empty()
        return pa.Table.from_pylist([known[key] for key in sorted(known)], picture_schema())

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows (schema `label_schema`), or some columns of them, shard after shard.

        All rows of a picture are in one of the tables. What a running job has finished is the last one.
        Raises InputError when there are none, CacheError for a damaged shard or another schema version.
        """
        import pyarrow as pa

        paths = self._shard_paths()
        gathered = set()
        for path in paths:
            yield self._read_rows(path, columns)
        names = self._part_names()
        if names and paths:
            gathered = {row["picture"] for row in self._picture_lines()}
        tables = [self._read_part(name, columns)[0] for name in names if name not in gathered]
        if tables:
            yield pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        elif not paths:
            raise self._empty()

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All that `tables` yields as one table."""
        import pyarrow as pa

        return pa.concat_tables(list(self.tables(columns))).unify_dictionaries()

    def _shard_paths(self) -> list[str]:
        return sorted(self._fs.glob(f"{self._root}/shards/*.parquet"))

    @property
    def _pictures_path(self) -> str:
        return f"{self._root}/pictures.parquet"

    def _part_path(self, picture: str) -> str:
        return f"{self._root}/parts/{picture}.parquet"

    def _empty(self) -> InputError:
        return InputError(f"{self.url}: holds no labels; make them with vcm-annotate")

    def _read_file(self, path: str, columns: list[str] | None = None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self._fs.open(path, "rb") as file:
                return pq.read_table(file, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())
            raise CacheError(f"{path}: damaged ({reason}); delete it and annotate again") from error

    def _read_rows(self, path: str, columns: list[str] | None = None) -> pa.Table:
        table = self._read_file(path, columns)
        found = (table.schema.metadata or {}).get(b"vcm_labels_version", b"none").decode()
        if found != str(SCHEMA_VERSION):
            raise CacheError(f"{path}: label schema {found}, this program reads {SCHEMA_VERSION}")
        return table

    def _read_part(self, name: str, columns: list[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
        """Rows of one part, and its line of the picture list."""
        table = self._read_rows(self._part_path(name), columns)
        line: dict[str, Any] = json.loads(table.schema.metadata[b"picture"])
        return table.replace_schema_metadata(label_schema().metadata), line

    def _picture_lines(self) -> list[dict[str, Any]]:
        if not self._fs.exists(self._pictures_path):
            return []
        lines: list[dict[str, Any]] = self._read_file(self._pictures_path).to_pylist()
        return lines

    def _part_names(self) -> list[str]:
        return sorted(n.removesuffix(".parquet") for n in self._listed("parts") if n.endswith(".parquet"))

    def _listed(self, folder: str) -> Iterable[str]:
        path = f"{self._root}/{folder}" if folder else self._root
        try:
            found = self._fs.ls(path, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found]

    def _remove_temporary(self) -> None:
        for folder in ("", "parts", "shards"):
            for name in self._listed(folder):
                if name.endswith(".tmp"):
                    self._fs.rm_file("/".join(part for part in (self._root, folder, name) if part))

    def _write(self, path: str, content: bytes) -> None:
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self._fs.pipe_file(temporary, content)
            self._fs.mv(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                if self._fs.exists(temporary):
                    self._fs.rm_file(temporary)
            raise OutputError(f"{path}: {_why(error)}; what is done is kept") from error


def bucket_of(picture: str) -> int:
    """Shard number of a picture: the first four bits of its hash."""
    return int(picture[0], 16) % BUCKETS


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full (or a quota is used up); free some space and run the same command again"
    return f"cannot be written ({error.strerror or error})"
