"""Small edits of an ONNX file's bytes, without the onnx library.

An ONNX file is a protobuf message; the field numbers below are those of onnx.proto. Only the named fields are
touched, all else is copied verbatim. ValueError when the bytes are no such message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE_INFO = 5, 11, 12, 13
_TENSOR_NAME = 8
_VALUE_INFO_NAME, _VALUE_INFO_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_TYPE_SHAPE = 2
_SHAPE_DIM = 1
_DIM_VALUE = 1
_VARINT, _LENGTH_DELIMITED = 0, 2

Edit = Callable[[bytes], "bytes | None"]


def without_initializer_inputs(model: bytes) -> bytes:
    """The model with no weight listed among the graph's inputs.

    Old exporters list the weights as inputs, which lets a caller replace them, so that ONNX Runtime may not
    treat them as constants and skips its fusions (NanoDet and PicoDet run 15 to 25 % faster without).
    """
    return _edit(model, {_MODEL_GRAPH: lambda graph: _edit(graph, {_GRAPH_INPUT: _unless_named(_weights(graph))})})


def with_input_shape(model: bytes, shape: Sequence[int]) -> bytes:
    """The model with its one true input at another fixed shape, and without the shapes that followed from it.

    Right for networks that are convolutional throughout; where a shape is built in, ONNX Runtime fails.
    """
    dims = b"".join(_field(_SHAPE_DIM, _encode(_DIM_VALUE << 3 | _VARINT) + _encode(d)) for d in shape)

    def retyped(shape_edit: Edit) -> Edit:
        tensor: dict[int, Edit] = {_TYPE_TENSOR: lambda body: _edit(body, {_TENSOR_TYPE_SHAPE: shape_edit})}
        return lambda info: _edit(info, {_VALUE_INFO_TYPE: lambda body: _edit(body, tensor)})

    edits: dict[int, Edit] = {
        _GRAPH_INPUT: retyped(lambda _: dims),
        _GRAPH_OUTPUT: retyped(lambda _: None),
        _GRAPH_VALUE_INFO: lambda _: None,
    }
    return _edit(without_initializer_inputs(model), {_MODEL_GRAPH: lambda graph: _edit(graph, edits)})


def _weights(graph: bytes) -> set[bytes]:
    return {_name(body, _TENSOR_NAME) for number, _, body in _fields(graph) if number == _GRAPH_INITIALIZER}


def _unless_named(names: set[bytes]) -> Edit:
    return lambda info: None if _name(info, _VALUE_INFO_NAME) in names else info


def _edit(message: bytes, edits: Mapping[int, Edit]) -> bytes:
    """The message with the payload of each named field edited; a field whose edit gives None is left out."""
    parts = []
    for number, whole, body in _fields(message):
        if number not in edits:
            parts.append(whole)
        elif (replaced := edits[number](body)) is not None:
            parts.append(whole if replaced == body else _field(number, replaced))
    return b"".join(parts)


def _name(message: bytes, field: int) -> bytes:
    return next((body for number, _, body in _fields(message) if number == field), b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(field number, the field as it stands, its payload) of each field of a protobuf message."""
    at, end = 0, len(message)
    while at < end:
        start = at
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(message, at)
            body_at, at = at, at + length
        elif kind == _VARINT:
            body_at = at
            _, at = _varint(message, at)
        elif kind in (1, 5):
            body_at, at = at, at + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"not an ONNX model: wire type {kind}")
        if at > end:
            raise ValueError("not an ONNX model: it is cut short")
        yield key >> 3, message[start:at], message[body_at:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("not an ONNX model: it is cut short")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _field(number: int, body: bytes) -> bytes:
    return _encode(number << 3 | _LENGTH_DELIMITED) + _encode(len(body)) + body


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
