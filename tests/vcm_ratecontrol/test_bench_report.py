"""The files of a benchmark: JSON, CSV, one page that needs nothing else, and README's table."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.vcm_ratecontrol.bench_runs import run, small_pictures, unseen
from tests.vcm_ratecontrol.encode_runs import REPOSITORY
from vcm_ratecontrol.bench.markdown import markdown_tables
from vcm_ratecontrol.bench.report import page_html
from vcm_ratecontrol.bench.results import Document, csv_text, document, json_text
from vcm_ratecontrol.bench.run import BenchRun
from vcm_ratecontrol.bench.writing import read_results, write_results


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pictures(asset: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pictures(asset("images"), tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def bench(pictures: Path, machines_dir: Path, cache: Path) -> BenchRun:
    return run([pictures], unseen(machines_dir), cache, methods=("smr-measured", "oracle-pooled"), targets=(0.5, 0.7))


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.links: list[str] = []
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._heading = tag in ("h1", "h2", "h3")
        if tag == "img":
            self.images.append(dict(attrs))
        self.links += [value or "" for name, value in attrs if name in ("href", "src") and tag != "img"]

    def handle_data(self, data: str) -> None:
        if self._heading and data.strip():
            self.headings.append(data.strip())
        self._heading = False


def test_the_files_hold_every_figure_and_the_page_needs_nothing_else(bench: BenchRun, tmp_path: Path) -> None:
    paths, found = write_results(bench, tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.csv", "results.json"]
    assert read_results(paths["json_file"]) == json.loads(json_text(found))
    lines = paths["csv_file"].read_text().splitlines()
    assert len(lines) == 1 + sum(len(method["points"]) for method in found["codecs"][0]["methods"])
    assert csv_text(found).startswith("codec,method,setting,smr,")
    page = _Page()
    page.feed(paths["report"].read_text())
    assert page.links == []
    for title in ("Rate against SMR", "Rate against mAP", "Savings per item", "Chosen QPs", "Savings against effort"):
        assert title in page.headings
    kinds = []
    for image in page.images:
        assert image["alt"]
        kind, _, data = (image["src"] or "").partition(";base64,")
        kinds.append(kind)
        content = base64.b64decode(data, validate=True)
        if kind == "data:image/svg+xml":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            assert content.startswith(b"\x89PNG")
    assert kinds.count("data:image/svg+xml") >= 6
    assert kinds.count("data:image/png") == 6  # two pictures: original, flat, chosen
    assert "NaN" not in paths["json_file"].read_text()


def test_the_table_of_the_readme(bench: BenchRun) -> None:
    text = markdown_tables(document(bench))
    assert "| method | at SMR 0.5 | at SMR 0.7 | BD-rate | encodes | seconds |" in text
    assert "3 pictures" in text
    assert "judged by 2 others" in text
    assert text.count("\n| `") == len(bench.codecs[0].methods) - 1


def test_a_browser_shows_every_picture_of_the_page(bench: BenchRun, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs a browser: chromium or google-chrome")
    paths, _ = write_results(bench, tmp_path, 1)
    asking = "<script>onload=()=>{document.title=[...document.images].map(i=>i.naturalWidth>0)}</script></body>"
    page = tmp_path / "asking.html"
    page.write_text(paths["report"].read_text().replace("</body>", asking))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([browser, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    shown = done.stdout.partition("<title>")[2].partition("</title>")[0].split(",")
    assert len(shown) >= 8
    assert set(shown) == {"true"}


def published(name: str) -> Document:
    return read_results(REPOSITORY / "data" / "benchmarks" / name / "results.json")


def shown_of(found: Document) -> _Page:
    page = _Page()
    page.feed(page_html(found, [None] * len(found["codecs"])))
    return page


BY_SMR = {"Bits saved at equal satisfaction", "Savings per item", "Savings against effort"}


def test_methods_per_object_alone_get_no_empty_tables_and_plots() -> None:
    """They meet no target SMR, so that what is ordered by it would hold the anchor alone, or nothing."""
    found = published("objects")
    text = page_html(found, [None] * len(found["codecs"]))
    assert "same judged mean SMR; in brackets" not in text
    assert text.count("Coding per object: bits saved") == len(found["codecs"])
    assert "<tbody>\n</tbody>" not in text
    page = shown_of(found)
    assert not BY_SMR & set(page.headings)
    assert page.headings.count("Rate against mAP") == len(found["codecs"])


def test_beside_others_they_have_their_own_table_alone() -> None:
    both = published("stills-known")
    codec, per_object = both["codecs"][0], published("objects")["codecs"][0]
    assert set(shown_of({**both, "codecs": [codec]}).headings) >= BY_SMR
    added = [method for method in per_object["methods"] if method["name"] != "flat"]
    mixed = {**both, "codecs": [{**codec, "methods": [*codec["methods"], *added]}]}
    text = page_html(mixed, [None])
    by_smr, _, rest = text.partition("Coding per object: bits saved")
    assert "<code>smr-pooled</code>" in by_smr
    assert "<code>jrd</code>" not in by_smr
    assert "<code>jrd</code>" in rest
    assert set(shown_of(mixed).headings) >= BY_SMR
