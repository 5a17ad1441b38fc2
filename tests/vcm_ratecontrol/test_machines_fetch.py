"""Model files by URL and SHA-256, from a real server on this computer."""

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from codec_wrappers.errors import InputError, MissingToolError, OutputError
from vcm_ratecontrol.machines import MachineLibrary
from vcm_ratecontrol.machines.fetch import fetch

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Shop:
    """A server: what it serves, how many bytes of the next answer it sends, and what it was asked for."""

    url: str = ""
    content: bytes = CONTENT
    break_after: int | None = None
    ranges: list[str | None] = field(default_factory=list)
    knows_ranges: bool = True


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            shop.ranges.append(wanted)
            if self.path.endswith("gone"):
                self.send_error(404)
                return
            body, code = shop.content, 200
            if wanted and shop.knows_ranges:
                body, code = body[int(wanted.removeprefix("bytes=").rstrip("-")) :], 206
                if not body:
                    self.send_error(416)
                    return
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if shop.break_after is None else body[: shop.break_after])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    shop.url = f"http://127.0.0.1:{server.server_port}/nets/tiny.onnx"
    yield shop
    server.shutdown()
    server.server_close()


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def test_a_file_is_fetched_once(shop: Shop, tmp_path: Path) -> None:
    path = fetch(shop.url, SHA256, tmp_path)
    assert path.read_bytes() == CONTENT and path.name == "tiny.onnx"
    assert fetch(shop.url, SHA256.upper(), tmp_path) == path
    assert len(shop.ranges) == 1 and files(tmp_path) == ["tiny.onnx"]


def test_many_at_once_transfer_once(shop: Shop, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch(shop.url, SHA256, tmp_path), range(8)))
    assert len(set(paths)) == 1 and len(shop.ranges) == 1


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_transfer_is_continued(shop: Shop, tmp_path: Path, knows_ranges: bool) -> None:
    shop.break_after, shop.knows_ranges = 300_000, knows_ranges
    with pytest.raises(MissingToolError, match="cannot be fetched"):
        fetch(shop.url, SHA256, tmp_path)
    assert files(tmp_path) == ["tiny.onnx.part"]
    shop.break_after = None
    assert fetch(shop.url, SHA256, tmp_path).read_bytes() == CONTENT
    assert shop.ranges == [None, "bytes=300000-"] and files(tmp_path) == ["tiny.onnx"]


def test_a_whole_part_or_a_wrong_one_is_no_obstacle(shop: Shop, tmp_path: Path) -> None:
    part = tmp_path / "models" / SHA256 / "tiny.onnx.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetch(shop.url, SHA256, tmp_path).read_bytes() == CONTENT
    (tmp_path / "models" / SHA256 / "tiny.onnx").unlink()
    part.write_bytes(b"something else")
    assert fetch(shop.url, SHA256, tmp_path).read_bytes() == CONTENT


def test_a_cached_file_that_rotted_is_fetched_again(shop: Shop, tmp_path: Path) -> None:
    fetch(shop.url, SHA256, tmp_path).write_bytes(b"rot")
    assert fetch(shop.url, SHA256, tmp_path).read_bytes() == CONTENT


def test_other_content_is_never_kept(shop: Shop, tmp_path: Path) -> None:
    shop.content = CONTENT[:-1] + b"x"
    with pytest.raises(MissingToolError, match="checksum") as caught:
        fetch(shop.url, SHA256, tmp_path)
    assert caught.value.exit_code == 7 and files(tmp_path) == []


def test_what_cannot_be_reached_is_named(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match=r"gone: cannot be fetched \(Not Found\)"):
        fetch(shop.url + "/gone", SHA256, tmp_path)
    with pytest.raises(MissingToolError, match=r"127\.0\.0\.1:9"):
        fetch("http://127.0.0.1:9/x.onnx", SHA256, tmp_path, timeout_s=2)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "x.onnx", "http:///x"])
def test_only_http_is_followed(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="URL"):
        fetch(url, SHA256, tmp_path)


def test_a_checksum_must_be_one(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SHA-256"):
        fetch(shop.url, "../../etc", tmp_path)


def test_a_cache_that_cannot_be_written_is_named(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="VCM_CACHE"):
        fetch(shop.url, SHA256, tmp_path / "cache")


def test_a_library_fetches_what_it_lacks(
    shop: Shop, tmp_path: Path, machines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "cache"))
    entries = json.loads((machines_dir.parent / "manifest.json").read_text())["machines"]
    (entry,) = (e for e in entries if e["name"] == "tinymaix_mbnet128_0.25")
    shop.content = (machines_dir / entry["name"] / entry["file"]).read_bytes()
    entry["files"][0]["url"] = shop.url.replace("tiny.onnx", "net.tflite")
    (tmp_path / "library").mkdir()
    (tmp_path / "library/manifest.json").write_text(json.dumps({"machines": [entry]}))
    fetched = MachineLibrary.load(tmp_path / "library")
    assert fetched.hashes == MachineLibrary.load(machines_dir, [entry["name"]]).hashes
