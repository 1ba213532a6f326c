"""Reading from a server of the Hub's API: bounded, with time limits, and with errors of ours.

Requests go through `huggingface_hub`'s HTTP client, so proxies, certificates and tokens are those
that are set up for it. Its functions are not used to read: they wait for ever, take answers of any
length, and use what a server says as names of files. Here nothing that a server says is used
before it was checked, and a redirect to another host does not take the token along.
"""

from __future__ import annotations

import io
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import repzoo
from repzoo.errors import AccessDenied, HubError, HubUnavailable, ModelNotFound, Offline

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "HUGGINGFACE",
    "Answer",
    "FileMissing",
    "Transport",
    "is_offline",
    "network_errors",
    "printable",
]

HUGGINGFACE = "https://huggingface.co"

_CONNECT_SECONDS = 10.0
_MAX_REDIRECTS = 5
#: Of what a server says for people, this much is shown.
_MAX_SAID = 200
#: None remaining, and the seconds until there are some.
_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=([0-9]{1,9})")
_TRUE = {"1", "on", "yes", "true"}


class FileMissing(HubError):
    """A repository has no such file at that commit."""


class Answer(NamedTuple):
    """A short answer."""

    content: bytes
    #: the path and query of the next page; None after the last one.
    next: str | None

    def json(self) -> Any:
        """The content as JSON; raises `ValueError` if it is none."""
        return json.loads(self.content)


def is_offline() -> bool:
    """Whether ``REPZOO_OFFLINE`` or ``HF_HUB_OFFLINE`` says not to use the network."""
    names = ("REPZOO_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").lower() in _TRUE for name in names)


class Transport:
    """Requests to one endpoint."""

    def __init__(self, endpoint: str) -> None:
        """Make requests to ``endpoint``, which is a scheme and a host, with no path."""
        self.endpoint = endpoint

    def get(self, path: str, limit: int, params: Mapping[str, str] | None = None) -> Answer:
        """Fetch a short answer.

        Args:
            path: begins with a slash, and may have a query.
            limit: the most bytes that it may have.
            params: a query.

        Raises:
            ModelNotFound: if there is no such repository or revision.
            FileMissing: if there is no such file.
            AccessDenied: if a token is missing, or not allowed to read this.
            HubUnavailable: if the server cannot be reached or is too busy.
            HubError: if it answers anything else, or too much.
        """
        with self._respond(path, {}, params) as response:
            body = _Body(response)
            content = body.read(limit + 1)
            if len(content) > limit:
                raise HubError(f"{self.endpoint}{path} has more than {limit} bytes")
            return Answer(content, self._next_page(response))

    @contextmanager
    def stream(self, path: str, start: int = 0) -> Iterator[io.BufferedIOBase]:
        """Give the bytes of a file from byte ``start`` on, as they come.

        Raises:
            As `get` does, also while it is read.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._respond(path, headers) as response:
                body = _Body(response)
                if start and response.status_code == 206:
                    said = response.headers.get("content-range", "")
                    if not said.replace(" ", "").startswith(f"bytes{start}-"):
                        raise HubError(
                            f"{self.endpoint}{path}: asked from byte {start}, got {said!r}"
                        )
                elif start:
                    # It does not know ranges, and starts over.
                    body.skip(start)
                yield body
        except _PastTheEnd:
            yield io.BytesIO()

    def token(self) -> str | None:
        """The token to send to the endpoint, if there is one.

        huggingface.co's token is for huggingface.co, for the endpoint that ``HF_ENDPOINT`` names,
        and for this machine. Any other host gets ``REPZOO_HUB_TOKEN`` or nothing: who may name a
        hub must not get the token of another.
        """
        own = os.environ.get("REPZOO_HUB_TOKEN")
        if not self._is_home():
            if own:
                return own
            if not _is_this_machine(self.endpoint):
                return None
        from huggingface_hub import constants, get_token

        return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()

    @contextmanager
    def _respond(
        self, path: str, headers: dict[str, str], params: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """Give the answer to a GET, at the end of its redirects, if it is one of success."""
        if is_offline():
            raise Offline(f"{self.endpoint} is not asked: this process is offline")
        import httpx2
        from huggingface_hub import constants, get_session
        from huggingface_hub.errors import OfflineModeIsEnabled

        token = self.token()
        headers = {
            "User-Agent": f"repzoo/{repzoo.__version__}",
            **({"Authorization": f"Bearer {token}"} if token else {}),
            # Sizes and sha256 are those of the file, not of what a server makes of it.
            "Accept-Encoding": "identity",
            **headers,
        }
        # Beyond the first byte, too: a server that stalls is one that is gone.
        timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT, connect=_CONNECT_SECONDS)
        client = get_session()
        url = f"{self.endpoint}{path}"
        with network_errors(self.endpoint):
            try:
                for _ in range(_MAX_REDIRECTS + 1):
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
                raise Offline(f"{self.endpoint} is not asked: HF_HUB_OFFLINE is set") from None
        raise HubError(f"{self.endpoint}{path}: more than {_MAX_REDIRECTS} redirects")

    def _check(self, response: httpx2.Response, path: str, with_token: bool) -> None:
        """Raise what an answer's status means, unless it is success."""
        status = response.status_code
        if status in (200, 206):
            return
        code = response.headers.get("X-Error-Code", "")
        said = printable(response.headers.get("X-Error-Message", ""))
        where = f"{self.endpoint}{path}"
        answer = f"HTTP {status} from {where}" + (f": {said}" if said else "")
        if status == 416:
            raise _PastTheEnd(answer)
        if status in (408, 425, 429) or status >= 500:
            raise HubUnavailable(answer, _retry_after(response.headers))
        if code == "GatedRepo":
            raise AccessDenied(f"{answer}; ask for access to it on its page, with the same account")
        if code == "RepoNotFound" or (status == 401 and self._hides(said, with_token)):
            hint = "the token may not read it" if with_token else f"it wants {self._a_token()}"
            raise ModelNotFound(f"{where}: there is no such package, or it is private and {hint}")
        if code == "RevisionNotFound":
            raise ModelNotFound(f"{where}: there is no such revision")
        if status in (401, 403):
            hint = "the token is not allowed to" if with_token else f"it wants {self._a_token()}"
            raise AccessDenied(f"{answer}; {hint}")
        if status == 404 and "/resolve/" in path:
            raise FileMissing(f"{where}: there is no such file")
        if status == 404:
            raise ModelNotFound(f"{where}: there is nothing there")
        raise HubError(answer)

    def _a_token(self) -> str:
        home = _is_this_machine(self.endpoint) or self._is_home()
        return "a token: " + ("HF_TOKEN, or hf auth login" if home else "REPZOO_HUB_TOKEN")

    def _is_home(self) -> bool:
        home = os.environ.get("HF_ENDPOINT") or HUGGINGFACE
        return _origin(self.endpoint) in {_origin(HUGGINGFACE), _origin(home)}

    def _hides(self, said: str, with_token: bool) -> bool:
        # Without a token huggingface.co answers 401 for what does not exist, too.
        return (
            self.endpoint == HUGGINGFACE
            and not with_token
            and said != "Invalid credentials in Authorization header"
        )

    def _next_page(self, response: httpx2.Response) -> str | None:
        url = response.links.get("next", {}).get("url")
        if url is None:
            return None
        try:
            url = urljoin(str(response.url), url)
        except ValueError as error:
            raise HubError(f"{self.endpoint}: {printable(url)} is not an address") from error
        if _origin(url) != _origin(self.endpoint):
            raise HubError(f"{self.endpoint}: the next page is on another host, {printable(url)}")
        parts = urlsplit(url)
        return f"{parts.path}?{parts.query}"


class _PastTheEnd(Exception):
    """A range was asked for that begins after the file's end."""


class _Body(io.BufferedIOBase):
    """The body of a response, as a stream."""

    def __init__(self, response: httpx2.Response) -> None:
        self._pieces = filter(None, response.iter_raw())
        self._rest = b""
        self._where = f"{response.url.scheme}://{response.url.netloc.decode('ascii', 'replace')}"

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        """What has come, at most ``size`` bytes; nothing only at the end."""
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
        """``size`` bytes, or all until the end."""
        pieces = []
        left = -1 if size is None else size
        while left != 0 and (piece := self.read1(left)):
            pieces.append(piece)
            left -= len(piece) if left > 0 else 0
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        """Read and forget ``count`` bytes."""
        while count > 0 and (piece := self.read1(count)):
            count -= len(piece)


@contextmanager
def network_errors(where: str) -> Iterator[None]:
    """Raise what goes wrong on the network as an error of ours."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError:
        raise  # an answer, though not a good one
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        reason = printable(str(error)) or type(error).__name__
        if isinstance(error, httpx2.TimeoutException):
            reason = (
                "no answer in time" if isinstance(error, httpx2.ConnectTimeout) else "it stalled"
            )
        message = f"{where}: {reason}"
        hopeless = isinstance(error, httpx2.UnsupportedProtocol) or "CERTIFICATE" in reason
        raise HubError(message) if hopeless else HubUnavailable(message) from error
    except httpx2.InvalidURL as error:
        raise HubError(f"{where}: {printable(str(error))}") from error


def _follow(url: str, location: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Where a redirect leads, and the headers to send there."""
    try:
        target = urljoin(url, location)
    except ValueError:
        target = location
    before, after = _origin(url), _origin(target)
    if after[0] not in ("http", "https") or (before[0], after[0]) == ("https", "http"):
        raise HubError(f"{url} redirects to {printable(target)}, which is not safe to follow")
    if before != after:
        # A signed address of a file store wants none of ours, and another host must not get it.
        headers = {k: v for k, v in headers.items() if k.lower() not in ("authorization", "cookie")}
    return target, headers


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise HubError(f"{printable(url)} is not an address") from error
    return parts.scheme, (parts.hostname or "").lower(), port


def _is_this_machine(url: str) -> bool:
    host = _origin(url)[1]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from ``Retry-After`` or huggingface.co's ``RateLimit``."""
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
    """Text of a server's, without what would move a terminal's cursor."""
    line = " ".join(text.split())
    return "".join(each for each in line if each.isprintable())[:_MAX_SAID]
