"""The wire format of protocol buffers, only as far as it takes to look into a file before a library opens it.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

from dynamicseg._files import Refusal

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10
_MOST_PACKED_BYTES = 1 << 10

Field = tuple[int, int, "int | memoryview"]
"""Number, wire type and value: an unsigned number for ``VARINT``, else the bytes as they are in the file."""


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in the order of the file; the bytes of nested messages are not looked at.

    Raises:
        Refusal: the bytes are no such message.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise _damaged()
        if wire_type == VARINT:
            value, position = _varint(message, position)
            yield number, wire_type, value
            continue
        if wire_type == BYTES:
            length, position = _varint(message, position)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise _damaged()
        if length > end - position:
            raise _damaged()
        yield number, wire_type, message[position : position + length]
        position += length


def varints(packed: memoryview) -> list[int]:
    """The numbers of a packed field that should be short, such as a shape."""
    if len(packed) > _MOST_PACKED_BYTES:
        raise _damaged()
    numbers, position = [], 0
    while position < len(packed):
        number, position = _varint(packed, position)
        numbers.append(number)
    return numbers


def signed(number: int) -> int:
    """A number of the type int64, of which a varint holds the bits."""
    return number - (1 << 64) if number >= 1 << 63 else number


def text(value: int | memoryview) -> str:
    """A field that has to be text."""
    if isinstance(value, int):
        raise _damaged()
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise _damaged() from None


def nested(value: int | memoryview) -> memoryview:
    """A field that has to be a message, or bytes."""
    if isinstance(value, int):
        raise _damaged()
    return value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for index, byte in enumerate(message[position : position + _MOST_VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
    raise _damaged()


def _damaged() -> Refusal:
    return Refusal("is no ONNX file, or it is damaged or cut short: copy it again")
