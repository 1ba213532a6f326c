"""HTTP clients that work, or fail with a clear error, whatever the environment variables say.

Requests go through `huggingface_hub`'s shared client, which uses ``HTTP_PROXY``, ``HTTPS_PROXY``,
``ALL_PROXY`` and ``NO_PROXY``. That client cannot even be created if one of them is not usable, and
it sends requests for this machine through a proxy, too.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from repzoo.errors import HubError

if TYPE_CHECKING:
    import httpx2

__all__ = ["check_variables", "client_for", "client_without_proxies", "is_this_machine", "proxy_of"]

_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


def client_for(url: str) -> httpx2.Client:
    """Return the client to request a URL with.

    Raises:
        HubError: If a variable is not usable; the message names it.
    """
    check_variables()
    from httpx2 import InvalidURL
    from huggingface_hub import get_session

    try:
        if getproxies() and is_this_machine(urlsplit(url).hostname or ""):
            return _direct_client()
        try:
            return get_session()
        except (ImportError, InvalidURL, ValueError) as error:
            if proxy_of(url) is None:
                return _direct_client()
            raise _proxy_error(url) or error from None
    except HubError:
        raise
    except OSError as error:  # includes ssl.SSLError
        names = [name for name in _TLS_VARIABLES if os.environ.get(name)]
        raise HubError(
            f"cannot set up TLS: {error.strerror}; check {' and '.join(names)}"
        ) from error


def check_variables() -> None:
    """Check the variables that `huggingface_hub` reads when it is imported.

    Raises:
        HubError: If one of them is not valid; the message names it.
    """
    try:
        from huggingface_hub import constants  # noqa: F401
    except ValueError as error:
        texts = {name: value for name, value in os.environ.items() if name.startswith("HF_")}
        named = [name for name, value in texts.items() if repr(value) in str(error)]
        where = " or ".join(named or texts) or "a variable that begins with HF_"
        raise HubError(f"{where} is not valid: {error}") from None


@contextmanager
def client_without_proxies(url: str) -> Iterator[None]:
    """Replace `huggingface_hub`'s shared client while its own functions use a URL without a proxy.

    Raises:
        HubError: If the URL needs a proxy and a proxy variable is not usable.
    """
    if client_for(url) is not _direct_client():
        yield
        return
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    before = _http._GLOBAL_CLIENT_FACTORY
    set_client_factory(_new_direct_client)
    try:
        yield
    finally:
        set_client_factory(before)


def proxy_of(url: str) -> str | None:
    """Return the name of the proxy variable that requests for a URL use, or None."""
    parts = urlsplit(url)
    if is_this_machine(parts.hostname or "") or proxy_bypass(parts.netloc):
        return None
    schemes = [scheme for scheme in (parts.scheme, "all") if scheme in getproxies()]
    return _variable(schemes[0]) if schemes else None


def is_this_machine(host: str) -> bool:
    """Whether a host name or address is a loopback one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _variable(scheme: str) -> str:
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    return next((name for name in names if name in os.environ), names[1])


def _proxy_error(url: str) -> HubError | None:
    """The error for the proxy that cannot be used, or None if all are usable."""
    import httpx2

    for scheme in ("http", "https", "all"):
        proxy = getproxies().get(scheme)
        if proxy is None:
            continue
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        try:
            httpx2.HTTPTransport(proxy=proxy).close()
        except (ImportError, httpx2.InvalidURL, ValueError) as error:
            reason = "its scheme is not http, https or socks5"
            if isinstance(error, ImportError):
                reason = "SOCKS proxies need pip install 'httpx2[socks]'"
            elif isinstance(error, httpx2.InvalidURL):
                reason = "it is not a URL"
            # Only the scheme is shown: the rest may contain a password.
            return HubError(
                f"the proxy in {_variable(scheme)}, {proxy.partition('://')[0]}://..., cannot be "
                f"used: {reason}. Change it, or add {urlsplit(url).hostname} to NO_PROXY"
            )
    return None


@lru_cache(maxsize=1)
def _direct_client() -> httpx2.Client:
    return _new_direct_client()


os.register_at_fork(after_in_child=_direct_client.cache_clear)


def _new_direct_client() -> httpx2.Client:
    import httpx2

    # With its own transport, it ignores proxy variables, but still uses SSL_CERT_FILE.
    return httpx2.Client(transport=httpx2.HTTPTransport(), follow_redirects=True, timeout=None)
