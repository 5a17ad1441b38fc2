"""Which machines a predictor is trained with, and which judge it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codec_wrappers.errors import InputError

JUDGE_SHARE = 0.3
"""Share of the machines of each task that judge when nobody names them."""

SAME = "same"
HASH = "hash"


@dataclass(frozen=True)
class MachineSplit:
    """choosing: names that training may see; judging: names that judge. Disjoint, or equal ('same')."""

    choosing: tuple[str, ...]
    judging: tuple[str, ...]

    @property
    def disjoint(self) -> bool:
        return not set(self.choosing) & set(self.judging)


def split_machines(names: Sequence[str], tasks: Sequence[str], judges: str = HASH) -> MachineSplit:
    """Divide the machines of a label table.

    names, tasks: of equal length. judges: 'hash': 30 % of each task by a hash of the name alone, so that a machine
    never changes sides when others are added with it in its share; 'same': all train and all judge, as the
    published predictors do; else names, comma-separated, or '@FILE' with one name a line. Names that the
    table does not know are an InputError, and so is a side that is left empty.
    """
    if judges == SAME:
        return MachineSplit(tuple(names), tuple(names))
    chosen = _by_hash(names, tasks) if judges == HASH else _named(names, judges)
    split = MachineSplit(tuple(n for n in names if n not in chosen), tuple(n for n in names if n in chosen))
    if not split.choosing or not split.judging:
        raise InputError(f"--judges {judges}: leaves no machine to {'train' if split.judging else 'judge'} with")
    return split


def _by_hash(names: Sequence[str], tasks: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for task in sorted(set(tasks)):
        members = [name for name, of in zip(names, tasks, strict=True) if of == task]
        members.sort(key=lambda name: hashlib.sha256(f"vcm-ratecontrol judges 1:{name}".encode()).digest())
        found.update(members[: math.ceil(JUDGE_SHARE * len(members) - 1e-9)] if len(members) > 1 else [])
    return found


def _named(names: Sequence[str], judges: str) -> set[str]:
    text = judges
    if judges.startswith("@"):
        try:
            text = Path(judges[1:]).read_text().replace("\n", ",")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--judges {judges}: cannot be read ({error}); give a file with one name a line") from None
    wanted = {part.strip() for part in text.split(",") if part.strip() and not part.strip().startswith("#")}
    if unknown := wanted - set(names):
        raise InputError(f"--judges: no machine '{min(unknown)}' in these labels; they have {', '.join(names)}")
    return wanted
