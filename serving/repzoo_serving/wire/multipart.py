"""``multipart/form-data`` bodies, already in memory, as text fields and files."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

__all__ = ["Form", "TooManyParts", "parse"]

# It logs a warning for every invalid form.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

#: A parameter of a header, quoted or not; matched in linear time.
_PARAMETER = re.compile(rb';\s*([\w.*-]+)\s*=\s*(?:"([^"]*)"|([^\s;]*))', re.ASCII)


class TooManyParts(Exception):
    """The form has more parts than allowed."""


@dataclass
class Form:
    """The parts of a form, in order. Files are the parts with a file name."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    #: The name of the part, the name of the file, and its content.
    files: list[tuple[str, str, bytes]] = field(default_factory=list)


def parse(body: bytes, content_type: bytes, *, max_parts: int) -> Form:
    """Split a form into its parts.

    Raises:
        ValueError: If the form is invalid.
        TooManyParts: If there are more than ``max_parts``; a part costs far more than its bytes.
    """
    boundary = _parameters(content_type).get(b"boundary")
    if not boundary:
        raise ValueError("the Content-Type has no boundary")
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


def _parameters(header: bytes) -> dict[bytes, bytes]:
    return {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(header)}


class _Collector:
    """The parser's callbacks. A header or a part may arrive in several calls."""

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
        disposition = self._headers.get(b"content-disposition", b"")
        parameters = _parameters(disposition)
        if disposition.split(b";", 1)[0].strip().lower() != b"form-data" or (
            b"name" not in parameters
        ):
            raise ValueError("a part of the form has no Content-Disposition: form-data with a name")
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").lower()
        if encoding not in (b"binary", b"8bit", b"7bit"):
            raise ValueError(
                "a part of the form has a Content-Transfer-Encoding; send it unencoded"
            )
        try:
            name = parameters[b"name"].decode()
            if parameters.keys() & {b"filename", b"filename*"}:
                file = parameters.get(b"filename", b"").decode(errors="replace")
                self.form.files.append((name, file, bytes(self._content)))
            else:
                self.form.fields.append((name, self._content.decode()))
        except UnicodeDecodeError:
            raise ValueError("a name or text field of the form is not valid UTF-8") from None

    def finish(self) -> None:
        self.finished = True
