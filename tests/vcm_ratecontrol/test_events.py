"""The JSON events: their schema, their order, and what no line may hold."""

import io
import json
import math
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from vcm_ratecontrol import events
from vcm_ratecontrol.events import (
    END_FIELDS,
    EndEvent,
    EventWriter,
    NoteEvent,
    PhaseEvent,
    ProgressEvent,
    ReaderGoneError,
    StartEvent,
)
from vcm_ratecontrol.progress import JsonProgress

SCHEMAS: dict[str, Any] = {
    "start": StartEvent,
    "phase": PhaseEvent,
    "progress": ProgressEvent,
    "note": NoteEvent,
    "end": EndEvent,
}


def check_event(event: dict[str, Any]) -> None:
    """Hold an event of the common kinds to its typed dictionary; others to `event` and `seconds`."""
    assert isinstance(event["event"], str)
    assert isinstance(event["seconds"], float | int)
    schema = SCHEMAS.get(event["event"])
    if schema is None:
        return
    assert set(event) >= schema.__required_keys__
    if event["event"] != "end":
        assert set(event) <= set(schema.__annotations__)
    allowed = {str: str, int: int, float: (int, float)}
    for name, hint in get_type_hints(schema).items():
        if hint in allowed and name in event:
            assert isinstance(event[name], allowed[hint]), (name, event[name])


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_each_kind_of_event_has_the_fields_of_its_type(stream: io.StringIO) -> None:
    writer = EventWriter(stream, "vcm-x")
    writer.start("1.2.3")
    progress = JsonProgress(writer)
    progress.phase("analysis", 4)
    progress.advance()
    progress.note("three scenes")
    progress.close()
    writer.end("error", 4, {"type": "EncoderError", "message": "x"}, {"smr": 0.5}, trace="Traceback")
    found = lines(stream)
    assert [event["event"] for event in found] == ["start", "phase", "note", "progress", "end"]
    for event in found:
        check_event(event)
    assert found[0]["schema"] == events.SCHEMA_VERSION == 1
    assert found[-1]["smr"] == 0.5


def test_every_field_of_the_schema_is_described() -> None:
    source = Path(events.__file__).read_text(encoding="utf-8")
    for schema in SCHEMAS.values():
        assert schema.__doc__
    for name in ("schema", "command", "version", "phase", "total", "done", "exit_code", "error", "trace", "type"):
        field = next(line for line in source.splitlines() if line.startswith(f"    {name}: "))
        following = source[source.index(field) + len(field) :].lstrip()
        assert following.startswith('"""'), name


def test_nothing_follows_the_end(stream: io.StringIO) -> None:
    writer = EventWriter(stream, "vcm-x")
    writer.end("ok", 0, None, {})
    writer.write("note", text="late")
    writer.end("error", 1, None, {})
    assert [event["event"] for event in lines(stream)] == ["end"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, None),
        (math.nan, None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([1, 2]), [1, 2]),
        (np.array([0.5, math.nan]), [0.5, None]),
        ((1, (2.0, "a")), [1, [2.0, "a"]]),
        ({"a": {1: math.inf}}, {"a": {"1": None}}),
        (Path("a/b"), "a/b"),
        (True, True),
        (None, None),
    ],
)
def test_values_become_plain_json(stream: io.StringIO, value: object, expected: object) -> None:
    EventWriter(stream, "vcm-x").write("note", text=value)
    (event,) = lines(stream)
    assert event["text"] == expected
    assert type(event["text"]) is type(expected)


def test_a_file_name_that_is_no_text_goes_through_as_ascii(stream: io.StringIO) -> None:
    path = Path(b"caf\xe9.png".decode("utf-8", "surrogateescape"))
    EventWriter(stream, "vcm-x").write("note", text=path)
    assert stream.getvalue().isascii()
    assert Path(lines(stream)[0]["text"]) == path


def test_lines_of_several_threads_stay_whole_and_in_time_order(stream: io.StringIO) -> None:
    writer = EventWriter(stream, "vcm-x")

    def write_many() -> None:
        for number in range(200):
            writer.write("note", text="x" * 500, number=number)

    threads = [threading.Thread(target=write_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(stream)
    assert len(found) == 800
    assert_rising(event["seconds"] for event in found)


def assert_rising(values: Iterable[float]) -> None:
    listed = list(values)
    assert listed == sorted(listed)


def test_a_reader_that_has_gone_is_told_apart_from_other_broken_pipes() -> None:
    class Gone(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    with pytest.raises(ReaderGoneError):
        EventWriter(Gone(), "vcm-x").write("note", text="x")


def test_progress_is_told_at_most_twice_a_second_and_at_the_end_of_a_phase(stream: io.StringIO) -> None:
    now = 0.0
    progress = JsonProgress(EventWriter(stream, "vcm-x"), clock=lambda: now)
    progress.phase("encoding", 100)
    for _ in range(100):
        now += 0.02
        progress.advance()
    progress.phase("verifying")
    progress.close()
    found = lines(stream)
    told = [event for event in found if event["event"] == "progress"]
    assert [event["done"] for event in told] == [25, 50, 75, 100]
    assert {event["phase"] for event in told} == {"encoding"}
    assert [event["event"] for event in found][-1] == "phase"


def test_progress_that_never_moved_is_not_told(stream: io.StringIO) -> None:
    progress = JsonProgress(EventWriter(stream, "vcm-x"))
    progress.phase("reading")
    progress.phase("encoding", 5)
    progress.close()
    progress.close()
    assert [event["event"] for event in lines(stream)] == ["phase", "phase"]


def test_end_fields_are_those_of_the_type() -> None:
    assert {"event", "seconds", "command", "status", "exit_code", "error", "trace"} == END_FIELDS
