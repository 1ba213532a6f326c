"""Connecting to Milvus: milvus-lite in a local folder, or a server by its URI."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
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
#: pymilvus recognises a local database by this suffix.
_DATABASE = "milvus.db"
#: Locked while a folder is open.
_LOCK = ".lock"
#: Exists while a folder is open; if it exists before that, a process was killed.
_OPEN = ".open"
#: milvus-lite may compute for longer than the 10 seconds between the pings of a client, and then
#: treats the second ping as an attack.
_KEEPALIVE = {"grpc.keepalive_time_ms": 3_600_000}
#: Loggers that print a traceback for every failed request. The caller gets an exception anyway.
_NOISY_LOGGERS = ("pymilvus.decorators", "milvus_lite.adapter.grpc.servicer")
#: Seconds to connect to milvus-lite, which is a thread of this process.
_CONNECT = 60


class Connection(NamedTuple):
    """An open connection to Milvus."""

    client: Any
    #: Closes the client and everything behind it.
    close: Callable[[], None]
    #: Whether it is a folder.
    local: bool


def connect(location: str, *, token: str | None, create: bool) -> Connection:
    """Connect to a server's URI, or open a folder.

    Args:
        location: ``http://``, ``https://``, ``tcp://`` or ``unix:``; anything else is a folder.
        token: The token of the server, ``user:password`` or an API key.
        create: Create the folder if it does not exist.

    Raises:
        RetrievalMissing: If a required library is not installed.
        IndexNotFound: If the folder does not exist, or holds no index.
        IndexInUse: If the folder is already open.
        IndexUnavailable: If the server cannot be reached.
    """
    try:
        from pymilvus import MilvusClient  # type: ignore[import-untyped]
    except ImportError as error:
        raise _missing(error) from error
    for name in _NOISY_LOGGERS:
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
    _quieten_faiss()
    logging.getLogger("grpc._server").addFilter(_is_no_missing_method)
    database = folder / _DATABASE
    if not create and not database.is_dir():
        raise IndexNotFound(f"there is no index in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        undo.enter_context(_locked(folder))
        try:
            # milvus-lite's server only logs that another program has locked the database.
            with MilvusLite(str(database)):
                if (folder / _OPEN).exists():
                    _mend(database)
                (folder / _OPEN).touch()
        except DataDirLockedError:
            raise _in_use(folder) from None
        undo.callback((folder / _OPEN).unlink, missing_ok=True)
        undo.callback(server_manager_instance.release_server, str(database))
        with milvus_errors(str(folder)):
            client = client_type(uri=str(database), timeout=_CONNECT, grpc_options=_KEEPALIVE)
        undo.callback(client.close)
        return Connection(client, undo.pop_all().close, local=True)
    raise AssertionError  # for mypy: an ExitStack may suppress errors


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes and this one, without waiting."""
    import fcntl  # not on Windows, which milvus-lite does not support either

    file = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise _in_use(folder) from None
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a forked child has it open
        os.close(file)


def _in_use(folder: Path) -> IndexInUse:
    return IndexInUse(
        f"{folder} is already open, here or in another process: milvus-lite allows one at a time. "
        "Close it first, or use a Milvus server"
    )


def _quieten_faiss() -> None:
    """Stop faiss from warning that fewer than 39 documents cannot be clustered well.

    The warning goes to stderr for every vector field. It is irrelevant here: an index has a single
    cluster, so every search is exact. faiss has no setting for it that milvus-lite passes on.
    """
    try:
        import faiss
        from milvus_lite.index import faiss_ivf_flat  # type: ignore[import-untyped]

        class IndexIVFFlat(faiss.IndexIVFFlat):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.cp.min_points_per_centroid = 1

        if isinstance(faiss_ivf_flat.faiss, SimpleNamespace):
            return  # replaced already
        names = {**vars(faiss), "IndexIVFFlat": IndexIVFFlat}
        faiss_ivf_flat.faiss = SimpleNamespace(**names)
    except (ImportError, AttributeError):
        return  # another version: it works as well, with the warning


def _mend(database: Path) -> None:
    """Remove incomplete files of a process that was killed, which milvus-lite cannot read.

    milvus-lite keeps documents safe. But it writes vector indexes in place (and rebuilds missing
    ones), and it creates the folder of a collection before the schema.
    """
    for sidecar in database.rglob("*.idx"):
        sidecar.unlink()
    for collection in database.glob("collections/*"):
        if not (collection / "schema.json").exists():
            shutil.rmtree(collection)


def _is_below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _is_no_missing_method(record: logging.LogRecord) -> bool:
    """Drop the log of a method that milvus-lite lacks: pymilvus tries it, and works without."""
    return not (record.exc_info and record.exc_info[0] is NotImplementedError)


@contextmanager
def milvus_errors(where: str, *, filtered: bool = False) -> Iterator[None]:
    """Turn Milvus's errors into ours. With ``filtered``, an invalid argument is the filter."""
    from pymilvus.exceptions import MilvusException  # type: ignore[import-untyped]

    try:
        yield
    except MilvusException as error:
        message = error.message or str(error)
        # 6: milvus-lite's "illegal argument"; 1100: the servers' "invalid parameter".
        if filtered and error.code in (6, 1100):
            raise InvalidFilter(f"Milvus does not understand the filter: {message}") from error
        raise IndexUnavailable(f"{where}: {message}") from error


def _missing(error: ImportError) -> RetrievalMissing:
    return RetrievalMissing(
        f"an index needs the 'retrieval' extra ({error.name} is not installed): "
        "pip install 'repzoo-client[retrieval]'"
    )
