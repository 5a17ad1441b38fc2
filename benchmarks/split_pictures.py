"""Names the pictures and clips of a split: `python -m benchmarks.split_pictures DIR --split test --limit 60`.

One path a line, in the order of the content's hash, so that the first so many are a random choice that never changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vcm_ratecontrol.annotate.sources import content_hash
from vcm_ratecontrol.labels.splits import split_of


def files_of(folder: Path, split: str) -> list[Path]:
    """Files under a folder whose content belongs to the split, each content once."""
    hashes = {content_hash(str(path)): path for path in sorted(folder.rglob("*"), reverse=True) if path.is_file()}
    return [path for key, path in sorted(hashes.items()) if split_of(key) == split]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many; 0: all")
    options = parser.parse_args()
    for path in files_of(options.folder, options.split)[: options.limit or None]:
        print(path)


if __name__ == "__main__":
    main()
