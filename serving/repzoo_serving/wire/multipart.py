"""``multipart/form-data`` bodies, already in memory, as text fields and files."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

__all__ = ["Form", "TooManyParts", "parse"]


class TooManyParts(Exception):
    """The form has more parts than it may."""


@dataclass
class Form:
    """The parts of a form, in order: ``fields`` are text, ``files`` had a file name."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)


def parse(body: bytes, content_type: bytes, *, max_parts: int) -> Form:
    """Take a form apart.

    Raises:
        ValueError: saying what is wrong with the form.
        TooManyParts: once there are more than ``max_parts``; a part costs far more than its bytes.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise ValueError("the Content-Type names no boundary")
    collector = _Collector(max_parts)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin,
                "on_header_field": collector.header_name,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_part_data": collector.data,
                "on_part_end": collector.end,
                "on_end": collector.finish,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise ValueError(f"not a multipart form: {error}") from None
    if not collector.finished:
        raise ValueError("the form is cut off before its closing boundary")
    return collector.form


class _Collector:
    """The parser's callbacks. It calls several times for one header or part."""

    def __init__(self, max_parts: int) -> None:
        self.form = Form()
        self.finished = False
        self._parts_left = max_parts

    def begin(self) -> None:
        if not self._parts_left:
            raise TooManyParts
        self._parts_left -= 1
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._content = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self._content += memoryview(data)[start:end]

    def end(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise ValueError("a part of the form has no Content-Disposition: form-data with a name")
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise ValueError("a part of the form has a Content-Transfer-Encoding; send it as it is")
        try:
            name = options[b"name"].decode()
            if b"filename" in options:
                self.form.files.append((name, bytes(self._content)))
            else:
                self.form.fields.append((name, self._content.decode()))
        except UnicodeDecodeError:
            raise ValueError("a name or text field of the form is not UTF-8") from None

    def finish(self) -> None:
        self.finished = True
