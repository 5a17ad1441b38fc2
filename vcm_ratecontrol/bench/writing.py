"""The files of a benchmark: results.json, results.csv, report.html, each written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from codec_wrappers.errors import InputError, OutputError
from vcm_ratecontrol.bench.report import report_html
from vcm_ratecontrol.bench.results import SCHEMA, Document, csv_text, document, json_text
from vcm_ratecontrol.bench.run import BenchRun


def prepare_folder(folder: Path) -> None:
    """Make the folder of the results; told before hours of work. Raises OutputError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: is not writable; choose another --out")


def write_results(run: BenchRun, folder: Path, n_examples: int) -> tuple[dict[str, Path], Document]:
    """Write all three; their paths by kind, and what the JSON holds. Raises OutputError."""
    found = document(run)
    contents = {
        "json_file": ("results.json", json_text(found)),
        "csv_file": ("results.csv", csv_text(found)),
        "report": ("report.html", report_html(run, found, n_examples)),
    }
    paths = {}
    for kind, (name, text) in contents.items():
        paths[kind] = folder / name
        _write(paths[kind], text)
    return paths, found


def read_results(path: Path) -> Document:
    """A results.json. Raises InputError when it is none, or of another schema."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        schema = found["schema"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a results.json of vcm-bench") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no results.json of vcm-bench; name one that it wrote") from error
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema}, this program reads {SCHEMA}; run the benchmark again")
    document: Document = found
    return document


def _write(path: Path, text: str) -> None:
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); free some space") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
