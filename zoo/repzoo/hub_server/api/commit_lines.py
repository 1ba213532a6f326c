"""The lines of a commit as huggingface_hub sends them: a header, then one line per change."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from repzoo.errors import InvalidInput
from repzoo.hub_server.limits import REGULAR_BYTES
from repzoo.packages.package import FileEntry
from repzoo.store.blobs import Blobs
from repzoo.store.commits import Add, Change, Delete
from repzoo.store.paths import check_path

__all__ = ["Header", "HeaderLine", "Line", "change_of", "parse_line"]


class Header(BaseModel):
    """The message and the parent."""

    summary: str = Field(min_length=1, max_length=500)
    description: str = Field("", max_length=3000)
    parentCommit: str | None = Field(None, pattern=r"^[0-9a-f]{5,40}$")  # noqa: N815


class _File(BaseModel):
    path: str
    content: str
    encoding: Literal["base64", "utf-8"] = "utf-8"


class _LfsFile(BaseModel):
    path: str
    algo: Literal["sha256"] = "sha256"
    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    #: Not sent for a copy of an existing file.
    size: int | None = Field(None, ge=0)


class _Path(BaseModel):
    path: str


class HeaderLine(BaseModel):
    """The first line."""

    key: Literal["header"]
    value: Header


class _FileLine(BaseModel):
    key: Literal["file"]
    value: _File


class _LfsLine(BaseModel):
    key: Literal["lfsFile"]
    value: _LfsFile


class _DeletedLine(BaseModel):
    key: Literal["deletedFile", "deletedFolder"]
    value: _Path


Line = HeaderLine | _FileLine | _LfsLine | _DeletedLine

_PARSER: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="key")])


def parse_line(line: bytes) -> Line:
    """Parse a line.

    Raises:
        InvalidInput: If it is not valid.
    """
    try:
        return _PARSER.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"not a valid line of a commit: {where} {first['msg']}") from None


def change_of(line: Line, blobs: Blobs) -> Change:
    """Return the change in a line, and put the content of a small file into the store.

    Raises:
        InvalidInput: If the path or the content is not valid.
    """
    value = line.value
    if isinstance(line, _DeletedLine):
        path = line.value.path.rstrip("/")
        return Delete(f"{path}/" if line.key == "deletedFolder" else path)
    if isinstance(value, _LfsFile):
        return Add(check_path(value.path), _entry(value, blobs))
    if isinstance(value, _File):
        check_path(value.path)
        content = _content(value)
        with blobs.receive(REGULAR_BYTES) as upload:
            upload.write(content)
            return Add(value.path, upload.keep())
    raise InvalidInput("a commit has only one header, on its first line")


def _entry(file: _LfsFile, blobs: Blobs) -> FileEntry:
    size = blobs.size(file.oid) if file.size is None else file.size
    if size is None:
        raise InvalidInput(f"the content of {file.path!a} has not been uploaded")
    return FileEntry(size=size, sha256=file.oid)


def _content(file: _File) -> bytes:
    try:
        if file.encoding == "base64":
            return base64.b64decode(file.content, validate=True)
        return file.content.encode()
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidInput(
            f"the content of {file.path!a} is not valid {file.encoding}: {error}"
        ) from None
