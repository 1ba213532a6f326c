"""A connection to Milvus: milvus-lite in a local folder, or any server by its URI."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from repzoo_client.retrieval.errors import (
    IndexInUse,
    IndexNotFound,
    IndexUnavailable,
    InvalidFilter,
    RetrievalMissing,
)

__all__ = ["Connection", "connect", "milvus_errors"]

_URI = re.compile(r"^(https?|tcp|unix):")
#: pymilvus tells a local database from a server by this ending.
_DATABASE = "milvus.db"
#: Lies in a folder while it is open; whoever finds it there comes after one that was killed.
_OPEN = ".open"
#: milvus-lite may compute for longer than the 10 seconds after which a client pings, and then takes
#: the second ping for an attack.
_PATIENT = {"grpc.keepalive_time_ms": 3_600_000}
#: What logs every request that fails, with its traceback; whoever asked is told by an error.
_TOLD_TWICE = ("pymilvus.decorators", "milvus_lite.adapter.grpc.servicer")
#: Seconds to connect to it. It is a thread of this process, and slow only on a very busy machine.
_CONNECT = 60


class Connection(NamedTuple):
    """A Milvus client, how to let go of all that stands behind it, and whether that is a folder."""

    client: Any
    close: Callable[[], None]
    local: bool


def connect(location: str, *, token: str | None, create: bool) -> Connection:
    """Connect to a server's URI, or open a folder.

    Args:
        location: ``http://``, ``https://``, ``tcp://`` or ``unix:``; anything else is a folder.
        token: of the server, ``user:password`` or an API key.
        create: make the folder if it is not there.

    Raises:
        RetrievalMissing: if what this takes is not installed.
        IndexNotFound: if there is no such folder, or no index in it.
        IndexInUse: if the folder is open already.
        IndexUnavailable: if the server cannot be reached.
    """
    try:
        from pymilvus import MilvusClient  # type: ignore[import-untyped]
    except ImportError as error:
        raise _missing(error) from error
    for name in _TOLD_TWICE:
        logging.getLogger(name).addFilter(_is_below_error)
    if _URI.match(location):
        with milvus_errors(location):
            client = MilvusClient(uri=location, token=token or "")
        return Connection(client, client.close, local=False)
    return _open_folder(Path(location), create, MilvusClient)


def _open_folder(folder: Path, create: bool, client_type: Any) -> Connection:
    try:
        from milvus_lite.db import MilvusLite  # type: ignore[import-untyped]
        from milvus_lite.exceptions import DataDirLockedError  # type: ignore[import-untyped]
        from milvus_lite.server_manager import (  # type: ignore[import-untyped]
            server_manager_instance,
        )
    except ImportError as error:
        raise _missing(error) from error
    logging.getLogger("grpc._server").addFilter(_is_no_missing_method)
    database = folder / _DATABASE
    if not create and not database.is_dir():
        raise IndexNotFound(f"there is no index in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # milvus-lite would only log that the folder is locked, with a traceback.
        with MilvusLite(str(database)):
            if (folder / _OPEN).exists():
                _mend(database)
            (folder / _OPEN).touch()
    except DataDirLockedError:
        raise IndexInUse(
            f"{folder} is open already: close that index, or wait for the other process"
        ) from None
    try:
        with milvus_errors(str(folder)):
            client = client_type(uri=str(database), timeout=_CONNECT, grpc_options=_PATIENT)
    except BaseException:
        server_manager_instance.release_server(str(database))
        raise

    def close() -> None:
        # Only then may another process open the folder.
        client.close()
        server_manager_instance.release_server(str(database))
        (folder / _OPEN).unlink(missing_ok=True)

    return Connection(client, close, local=True)


def _mend(database: Path) -> None:
    """Remove what milvus-lite, killed, may have left half written and would stumble over.

    Documents it keeps safe itself. But it writes vectors' indexes, which it makes anew if they are
    not there, in place; and a collection's folder is there before what makes it a collection.
    """
    for sidecar in database.rglob("*.idx"):
        sidecar.unlink()
    for collection in database.glob("collections/*"):
        if not (collection / "schema.json").exists():
            shutil.rmtree(collection)


def _is_below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _is_no_missing_method(record: logging.LogRecord) -> bool:
    """pymilvus asks for what milvus-lite does not have, and goes on: that is no error to log."""
    return not (record.exc_info and record.exc_info[0] is NotImplementedError)


@contextmanager
def milvus_errors(where: str, *, filtered: bool = False) -> Iterator[None]:
    """Turn Milvus' errors into ours; with ``filtered``, what it does not take is the filter."""
    from pymilvus.exceptions import MilvusException  # type: ignore[import-untyped]

    try:
        yield
    except MilvusException as error:
        message = error.message or str(error)
        # 6: milvus-lite's "illegal argument"; 1100: the servers' "invalid parameter".
        if filtered and error.code in (6, 1100):
            raise InvalidFilter(f"Milvus does not take the filter: {message}") from error
        raise IndexUnavailable(f"{where}: {message}") from error


def _missing(error: ImportError) -> RetrievalMissing:
    return RetrievalMissing(
        f"an index needs the 'retrieval' extra ({error.name} is not installed): "
        "pip install 'repzoo-client[retrieval]'"
    )
