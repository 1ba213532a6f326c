"""Read from a server of the Hub's API with size and time limits and repzoo's own errors.

Requests use `huggingface_hub`'s HTTP client and its settings for proxies, certificates and tokens.
Its functions are not used for reading: they wait forever, accept answers of any length, and use
text from the server as file names. Here everything is checked before it is used, and a redirect to
another host does not take the token along.
"""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import repzoo
from repzoo.errors import AccessDenied, HubError, HubUnavailable, ModelNotFound, Offline
from repzoo.hubs.environment import check_variables, client_for, is_this_machine, proxy_of

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "HUGGINGFACE",
    "INVALID_CREDENTIALS",
    "Answer",
    "FileMissing",
    "Transport",
    "is_offline",
    "network_errors",
    "printable",
]

HUGGINGFACE = "https://huggingface.co"

_CONNECT_SECONDS = 10.0
#: Seconds for a whole short response. Without a limit, a server could send it byte by byte.
_SHORT_SECONDS = 120.0
_MAX_REDIRECTS = 5
#: Characters of a server's message that are shown.
_MAX_SAID = 200
#: No requests remain; the group is the number of seconds until requests are allowed again.
_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=([0-9]{1,9})")
#: The Hub's client does not report a 401 with these words as a missing repository.
INVALID_CREDENTIALS = "Invalid credentials in Authorization header"
_TRUE = {"1", "on", "yes", "true"}


class FileMissing(HubError):
    """A commit does not have a file."""


class Answer(NamedTuple):
    """A short response."""

    content: bytes
    #: Path and query of the next page, or None for the last one.
    next: str | None

    def json(self) -> Any:
        """Parse the content as JSON. Raises `ValueError` if it is not valid."""
        return json.loads(self.content)


def is_offline() -> bool:
    """Whether ``REPZOO_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    names = ("REPZOO_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").lower() in _TRUE for name in names)


class Transport:
    """Requests to one endpoint."""

    def __init__(self, endpoint: str) -> None:
        """Make requests to an endpoint, which is a scheme and a host without a path."""
        self.endpoint = endpoint

    def get(self, path: str, limit: int, params: Mapping[str, str] | None = None) -> Answer:
        """Fetch a short response.

        Args:
            path: The path, which begins with a slash and may have a query.
            limit: The maximum number of bytes.
            params: A query.

        Raises:
            ModelNotFound: If the repository or revision does not exist.
            FileMissing: If the file does not exist.
            AccessDenied: If the token is missing or may not read this.
            HubUnavailable: If the server cannot be reached or is too busy.
            HubError: If the response is anything else, or too long.
        """
        with self._respond(path, {}, params) as response:
            body = _Body(response)
            content = bytearray()
            end = time.monotonic() + _SHORT_SECONDS
            while piece := body.read1():
                content += piece
                if len(content) > limit:
                    raise HubError(f"{self.endpoint}{path}: the response exceeds {limit} bytes")
                if time.monotonic() > end:
                    raise HubUnavailable(
                        f"{self.endpoint}{path}: no complete response in {_SHORT_SECONDS:.0f} s"
                    )
            return Answer(bytes(content), self._next_page(response))

    @contextmanager
    def stream(self, path: str, start: int = 0) -> Iterator[io.BufferedIOBase]:
        """Give the bytes of a file from byte ``start`` on, as they arrive.

        Raises:
            HubError: As `get` does, also while the stream is read.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._respond(path, headers) as response:
                body = _Body(response)
                if start and response.status_code == 206:
                    said = response.headers.get("content-range", "")
                    if not said.replace(" ", "").startswith(f"bytes{start}-"):
                        raise HubError(
                            f"{self.endpoint}{path}: requested byte {start}, got {said!r}"
                        )
                elif start:
                    # The server does not support ranges and starts over.
                    body.skip(start)
                yield body
        except _PastTheEnd:
            yield io.BytesIO()

    def token(self) -> str | None:
        """Return the token to send to the endpoint, or None.

        The Hugging Face token is sent to huggingface.co, to the endpoint in ``HF_ENDPOINT``, and to
        this machine. Any other host gets ``REPZOO_HUB_TOKEN`` or nothing, because a hub that
        somebody names in a command must not receive another hub's token.
        """
        check_variables()
        from huggingface_hub import constants, get_token

        name, token = "REPZOO_HUB_TOKEN", os.environ.get("REPZOO_HUB_TOKEN", "").strip()
        if self._is_home() or (not token and self._is_here()):
            name, token = "the Hugging Face token", ""
            if not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
                token = get_token() or ""
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise AccessDenied(f"{name} contains characters that a token cannot have")
        return token or None

    @contextmanager
    def _respond(
        self, path: str, headers: dict[str, str], params: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """Give the successful response to a GET, after redirects."""
        if is_offline():
            raise Offline(f"{self.endpoint}: not contacted, because this process is offline")
        token = self.token()
        import httpx2
        from huggingface_hub import constants
        from huggingface_hub.errors import OfflineModeIsEnabled

        headers = {
            "User-Agent": f"repzoo/{repzoo.__version__}",
            **({"Authorization": f"Bearer {token}"} if token else {}),
            # Sizes and hashes are those of the file, not of a compressed form.
            "Accept-Encoding": "identity",
            **headers,
        }
        # This applies to every read: a server that stalls counts as unavailable.
        timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT, connect=_CONNECT_SECONDS)
        url = f"{self.endpoint}{path}"
        with network_errors(self.endpoint):
            try:
                for _ in range(_MAX_REDIRECTS + 1):
                    client = client_for(url)
                    request = client.build_request(
                        "GET", url, headers=headers, params=params, timeout=timeout
                    )
                    response = client.send(request, stream=True, follow_redirects=False)
                    try:
                        if not response.has_redirect_location:
                            self._check(response, path, token is not None)
                            yield response
                            return
                        url, headers = _follow(url, response.headers["Location"], headers)
                        params = None
                    finally:
                        response.close()
            except OfflineModeIsEnabled:
                raise Offline(
                    f"{self.endpoint}: not contacted, because HF_HUB_OFFLINE is set"
                ) from None
        raise HubError(f"{self.endpoint}{path}: more than {_MAX_REDIRECTS} redirects")

    def _check(self, response: httpx2.Response, path: str, with_token: bool) -> None:
        """Raise the error that a response's status means, if any."""
        status = response.status_code
        if status in (200, 206):
            return
        code = response.headers.get("X-Error-Code", "")
        said = printable(response.headers.get("X-Error-Message", ""))
        where = f"{self.endpoint}{path}"
        about = f": {said}" if said not in ("", INVALID_CREDENTIALS) else ""
        answer = f"HTTP {status} from {where}{about}"
        if status == 416:
            raise _PastTheEnd(answer)
        if status in (408, 425, 429) or status >= 500:
            raise HubUnavailable(answer, _retry_after(response.headers))
        if code == "GatedRepo":
            raise AccessDenied(f"{answer}; ask for access on its page with the same account")
        unsaid = not about or self.endpoint == HUGGINGFACE
        if code == "RepoNotFound" and status == 404 and not unsaid:
            raise ModelNotFound(f"{where}: no such package{about}")
        if code == "RepoNotFound" or (status == 401 and self._hides(said, with_token)):
            hint = "the token may not read it" if with_token else f"needs {self.token_hint()}"
            raise ModelNotFound(f"{where}: no such package, or it is private and {hint}")
        if code == "RevisionNotFound":
            raise ModelNotFound(f"{where}: no such revision")
        if status in (401, 403) and not with_token:
            raise AccessDenied(f"{answer}; this needs {self.token_hint()}")
        if status in (401, 403):
            raise AccessDenied(f"{answer}; the token may not read this")
        if status == 404 and "/resolve/" in path:
            raise FileMissing(f"{where}: no such file")
        if status == 404:
            raise ModelNotFound(f"{where}: not found{about}")
        raise HubError(answer)

    def token_hint(self) -> str:
        """Return how to set the token for the endpoint."""
        if self._is_here() or self._is_home():
            return "a token: set HF_TOKEN, or run hf auth login"
        return "a token: set REPZOO_HUB_TOKEN"

    def _is_here(self) -> bool:
        return is_this_machine(_origin(self.endpoint)[1])

    def _is_home(self) -> bool:
        home = os.environ.get("HF_ENDPOINT") or HUGGINGFACE
        return _origin(self.endpoint) in {_origin(HUGGINGFACE), _origin(home)}

    def _hides(self, said: str, with_token: bool) -> bool:
        # Without a token huggingface.co also answers 401 for repositories that do not exist.
        return self.endpoint == HUGGINGFACE and not with_token and said != INVALID_CREDENTIALS

    def _next_page(self, response: httpx2.Response) -> str | None:
        url = response.links.get("next", {}).get("url")
        if url is None:
            return None
        try:
            url = urljoin(str(response.url), url)
        except ValueError as error:
            raise HubError(f"{self.endpoint}: {printable(url)} is not a valid URL") from error
        if _origin(url) != _origin(self.endpoint):
            raise HubError(f"{self.endpoint}: the next page is on another host, {printable(url)}")
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}"


class _PastTheEnd(Exception):
    """The requested range begins after the end of the file."""


class _Body(io.BufferedIOBase):
    """The body of a response, as a stream."""

    def __init__(self, response: httpx2.Response) -> None:
        self._pieces = filter(None, response.iter_raw())
        self._rest = b""
        self._where = f"{response.url.scheme}://{response.url.netloc.decode('ascii', 'replace')}"

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes that have arrived; the result is empty only at the end."""
        if not self._rest:
            try:
                self._rest = next(self._pieces, b"")
            except Exception:
                with network_errors(self._where):
                    raise
        if 0 <= size < len(self._rest):
            piece, self._rest = self._rest[:size], self._rest[size:]
        else:
            piece, self._rest = self._rest, b""
        return piece

    def read(self, size: int | None = -1) -> bytes:
        """Return ``size`` bytes, or everything until the end."""
        pieces = []
        left = -1 if size is None else size
        while left != 0 and (piece := self.read1(left)):
            pieces.append(piece)
            left -= len(piece) if left > 0 else 0
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        """Skip ``count`` bytes."""
        while count > 0 and (piece := self.read1(count)):
            count -= len(piece)


@contextmanager
def network_errors(where: str) -> Iterator[None]:
    """Turn errors of the network into repzoo's errors."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError:
        raise  # the server did respond
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        reason = printable(str(error)) or type(error).__name__
        if isinstance(error, httpx2.TimeoutException):
            reason = (
                "no response in time" if isinstance(error, httpx2.ConnectTimeout) else "it stalled"
            )
        message = f"{where}: {reason}{_through_proxy(error)}"
        hopeless = isinstance(error, httpx2.UnsupportedProtocol) or "CERTIFICATE" in reason
        raise HubError(message) if hopeless else HubUnavailable(message) from error
    except httpx2.InvalidURL as error:
        raise HubError(f"{where}: {printable(str(error))}") from error


def _through_proxy(error: Exception) -> str:
    request = getattr(error, "_request", None)
    variable = proxy_of(str(request.url)) if request is not None else None
    return f" (through the proxy in {variable})" if variable is not None else ""


def _follow(url: str, location: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the target of a redirect and the headers to send there."""
    try:
        target = urljoin(url, location)
    except ValueError:
        target = location
    before, after = _origin(url), _origin(target)
    if after[0] not in ("http", "https") or (before[0], after[0]) == ("https", "http"):
        raise HubError(f"{url} redirects to {printable(target)}, which is not safe to follow")
    if before != after:
        # A file store's signed URL needs no token, and another host must not receive it.
        headers = {k: v for k, v in headers.items() if k.lower() not in ("authorization", "cookie")}
    return target, headers


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise HubError(f"{printable(url)} is not a valid URL") from error
    return parts.scheme, (parts.hostname or "").lower(), port


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait, from ``Retry-After`` or huggingface.co's ``RateLimit``."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said[:9])
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        limit = _RATE_LIMIT.search(headers.get("ratelimit", ""))
        return float(limit[1]) if limit is not None else None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def printable(text: str) -> str:
    """Return text from a server as one short line without control characters."""
    line = " ".join(text.split())
    return "".join(each for each in line if each.isprintable())[:_MAX_SAID]
