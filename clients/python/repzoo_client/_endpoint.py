"""Where the server is and how it is reached: URL, credentials and proxy."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.request
from dataclasses import dataclass, field

import httpx

from repzoo_client.errors import ServerUnreachable

__all__ = ["DEFAULT_URL", "Endpoint"]

DEFAULT_URL = "http://127.0.0.1:3000"

_CREDENTIALS = re.compile(r"//[^/?#]*@")


@dataclass(frozen=True)
class Endpoint:
    """A server's address. Its text forms never contain a password or an API key.

    Attributes:
        url: The URL, without credentials and without a slash at the end.
        proxy: The proxy's URL without credentials and the variable that sets it, for messages;
            empty if requests go to the server directly.
    """

    url: str
    proxy: str
    _auth: tuple[str, str] | None = field(repr=False)
    _api_key: str = field(repr=False)
    _proxy_url: str | None = field(repr=False)

    @classmethod
    def of(cls, url: str | None, api_key: str | None) -> Endpoint:
        """Read the arguments of a client, or else the environment variables.

        Raises:
            ValueError: If the URL or the API key cannot be used.
        """
        text = (url or os.environ.get("REPZOO_URL") or DEFAULT_URL).strip().rstrip("/")
        shown = _CREDENTIALS.sub("//***@", text)
        try:
            parsed = httpx.URL(text)
        except httpx.InvalidURL:
            parsed = httpx.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"{shown!r} is not an http:// or https:// URL")
        if parsed.query or parsed.fragment:
            raise ValueError(f"{shown!r} has a query or a fragment; expected the server's URL only")
        key = (api_key or os.environ.get("REPZOO_API_KEY") or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError(
                "the API key contains characters that an HTTP header cannot carry; expected "
                "printable ASCII"
            )
        auth = (parsed.username, parsed.password) if parsed.userinfo else None
        if key and auth:
            raise ValueError(
                f"{shown!r} has a user name, and there is an API key too; a request can carry "
                "only one of them"
            )
        variable, proxy = _proxy(parsed)
        return cls(
            str(parsed.copy_with(userinfo=b"")).rstrip("/"),
            f"{_CREDENTIALS.sub('//***@', proxy)} (set by {variable})" if proxy else "",
            auth,
            key,
            proxy or None,
        )

    def connect(self, timeout: float | None) -> httpx.AsyncClient:
        """Return an HTTP client that sends requests to this server.

        Raises:
            ServerUnreachable: If the proxy cannot be used.
        """
        try:
            return httpx.AsyncClient(
                headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else {},
                auth=self._auth,
                timeout=timeout,
                # Servers close idle connections after 5 seconds. Give them up before that, or a
                # request may meet one that is just being closed.
                limits=httpx.Limits(keepalive_expiry=3),
                # httpx would fail on any proxy variable that it does not understand, even if it
                # does not apply to this server.
                trust_env=False,
                proxy=self._proxy_url,
                verify=httpx.create_ssl_context() if self.url.startswith("https:") else False,
            )
        except (ImportError, ValueError) as error:
            raise ServerUnreachable(
                f"{self.url} cannot be reached through the proxy {self.proxy}: {error}. Set "
                f"NO_PROXY to connect directly"
            ) from error


def _proxy(url: httpx.URL) -> tuple[str, str]:
    """Return the environment variable that sets the proxy for a URL, and the proxy, or two "".

    This machine is always reached directly: a proxy could not reach it.
    """
    if _is_loopback(url.host):
        return "", ""
    proxies = urllib.request.getproxies()
    name = url.scheme if proxies.get(url.scheme) else "all"
    proxy = proxies.get(name, "")
    if not proxy or urllib.request.proxy_bypass(url.netloc.decode("ascii")):
        return "", ""
    return f"{name.upper()}_PROXY", proxy if "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
