"""What surrounds a client: forks, event loops, proxies, secrets, and odd arguments."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from repzoo_client import AsyncClient, Client, errors

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)


class TestForks:
    """A forked child has no thread that could answer, and must not wait for one."""

    @pytest.mark.parametrize(
        "child",
        [
            "",
            "c.embed(x, model='tiny')",
            "with Client() as d: d.embed(x, model='tiny')",
            "c.close()",
            "del c; gc.collect()",
            "expect(lambda: next(pieces))",
        ],
    )
    def test_a_child_ends(self, server_url: str, child: str) -> None:
        code = f"""
import gc, os, sys
import numpy as np
from repzoo_client import Client, ClientError

def expect(call):
    try:
        call()
    except ClientError:
        return
    raise AssertionError

x = np.zeros((8, 8, 8, 1), np.uint8)
c = Client(batch_size=1, concurrency=2)
c.embed(x, model="tiny")
pieces = c.embed_iter(x, model="tiny")
next(pieces)
pid = os.fork()
if pid == 0:
    {child}
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert sum(len(piece) for piece in pieces) == 7
print(c.embed(x, model="tiny").shape)
"""
        assert run(code, REPZOO_URL=server_url) == "(8, 4)\n"

    def test_multiprocessing(self, server_url: str) -> None:
        code = """
import multiprocessing
import numpy as np
from repzoo_client import Client, ModelNotFound

x = np.zeros((3, 8, 8, 1), np.uint8)
c = Client()
c.embed(x, model="tiny")

def embed(model):
    return c.embed(x, model=model).shape

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(embed, ["tiny"] * 4))
    try:
        pool.map(embed, ["nope"])
    except ModelNotFound as error:
        print(error.status)
"""
        expected = f"{[(3, 4)] * 4}\n404\n"
        assert run(code, REPZOO_URL=server_url) == expected


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_errors_can_be_pickled() -> None:
    """Otherwise a pool of processes waits forever for a result that is an error."""
    error = errors.AccessDenied(401, "urn:x", "no key", request_id="r", index=3, retry_after=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.AccessDenied
    assert (str(again), vars(again)) == ("no key (HTTP 401)", vars(error))


class TestEventLoops:
    def test_one_client_in_two_runs(self, server_url: str) -> None:
        client = AsyncClient(server_url)
        for _ in range(2):
            assert len(asyncio.run(client.embed(PIXELS, model="tiny"))) == 6
        # The first loop has closed its connections: this would warn of open ones.
        gc.collect()
        asyncio.run(client.close())
        with pytest.raises(errors.ClientClosed):
            asyncio.run(client.models())

    def test_many_calls_at_once_share_the_connections(self, server_url: str) -> None:
        async def main() -> None:
            async with AsyncClient(server_url) as client:
                calls = [client.embed(PIXELS, model="tiny") for _ in range(8)]
                assert {len(rows) for rows in await asyncio.gather(*calls)} == {6}
                assert len(client._core._connections) == 1

        for _ in range(3):
            asyncio.run(main())
            gc.collect()

    def test_closing_during_a_call(self, ask: Any, rogue: Callable[..., Any]) -> None:
        with rogue("silence") as (url, seen), Client(url, retries=0) as client:

            def close() -> None:
                while not seen.posts:
                    pass
                client.close()

            thread = threading.Thread(target=close)
            thread.start()
            with pytest.raises(errors.ClientClosed, match="closed during the call"):
                client.embed(PIXELS, model="tiny")
            thread.join()

    def test_closing_during_an_asynchronous_call(self, rogue: Callable[..., Any]) -> None:
        async def main(url: str, seen: Any) -> None:
            async with AsyncClient(url) as client:
                call = asyncio.create_task(client.embed(PIXELS, model="tiny"))
                while not seen.posts:
                    await asyncio.sleep(0.01)
                await client.close()
                with pytest.raises(errors.ClientClosed, match="closed during the call"):
                    await call

        with rogue("silence") as (url, seen):
            asyncio.run(main(url, seen))


class TestSecrets:
    """Passwords and keys travel in headers, and appear in no message."""

    def test_a_key_is_stripped(self, stranger: Callable[..., Any]) -> None:
        with (
            stranger(200, {"Content-Type": "application/json"}, b'{"models": []}') as (url, seen),
            Client(url, api_key=" secret\r\n") as client,
        ):
            assert client.models() == []
        assert seen[0]["Authorization"] == "Bearer secret"

    @pytest.mark.parametrize("key", ["sec\nret", "secr\u00e9t", "sec\0ret"])
    def test_a_key_that_no_header_can_carry(
        self, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ValueError, match="API key contains") as caught:
            Client(api_key=key)
        assert "sec" not in str(caught.value)

    def test_a_password_in_the_url(self, stranger: Callable[..., Any]) -> None:
        with stranger(200, {"Content-Type": "text/html"}, b"") as (url, seen):
            secret = url.replace("//", "//me:hush@")
            with Client(secret) as client, pytest.raises(errors.UnexpectedAnswer) as caught:
                client.models()
            assert (client.url, vars(client)["url"]) == (url, url)
        token = base64.b64encode(b"me:hush").decode()
        assert seen[0]["Authorization"] == f"Basic {token}"
        said = [str(caught.value), repr(client._core._endpoint)]
        with Client(secret, retries=0) as client, pytest.raises(errors.ServerUnreachable) as gone:
            client.models()
        said.append(str(gone.value))
        for wrong in ("ftp://me:hush@host", "http://me:hush@", f"{secret}?q", f"{secret}:port"):
            with pytest.raises(ValueError, match="http") as refused:
                Client(wrong)
            said.append(str(refused.value))
        with pytest.raises(ValueError, match="only one") as both:
            Client(secret, api_key="key")
        said.append(str(both.value))
        assert not any("hush" in text for text in said), said


class TestProxies:
    @pytest.mark.parametrize(
        "variables",
        [
            {"HTTP_PROXY": "http://127.0.0.1:9"},
            {"ALL_PROXY": "socks5://127.0.0.1:9"},
            {"ALL_PROXY": "socks://127.0.0.1:9", "NO_PROXY": "127.0.0.1"},
            {"HTTP_PROXY": "not a url"},
        ],
    )
    def test_this_machine_is_reached_directly(
        self,
        ask: Callable[..., Any],
        server_url: str,
        variables: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        set_proxies(monkeypatch, variables)
        assert len(ask(server_url, "models")) == 2

    def test_other_machines_are_reached_by_the_proxy(
        self, stranger: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = (200, {"Content-Type": "application/json"}, b'{"models": []}')
        with stranger(*answer) as (url, seen):
            # Without a scheme, which curl accepts too.
            set_proxies(monkeypatch, {"HTTP_PROXY": url.removeprefix("http://")})
            with Client("http://models.example") as client:
                assert client.models() == []
        assert seen[0]["Host"] == "models.example"

    @pytest.mark.parametrize(
        ("variables", "said"),
        [
            ({"HTTP_PROXY": "http://me:hush@127.0.0.1:9"}, "http://***@127.0.0.1:9 (set by HTTP"),
            ({"ALL_PROXY": "socks://127.0.0.1:9"}, "socks://127.0.0.1:9 (set by ALL_PROXY)"),
            ({"ALL_PROXY": "http://a b"}, "http://a b (set by ALL_PROXY)"),
        ],
    )
    def test_a_proxy_that_fails_is_named(
        self,
        ask: Callable[..., Any],
        variables: dict[str, str],
        said: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        set_proxies(monkeypatch, variables)
        with pytest.raises(errors.ServerUnreachable) as caught:
            ask("http://models.example", "models", client={"retries": 0})
        assert said in str(caught.value)
        assert "NO_PROXY" in str(caught.value)
        assert "hush" not in str(caught.value)

    def test_an_answer_of_the_proxy_itself(
        self, stranger: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with stranger(407, {}, b"") as (url, _):
            set_proxies(monkeypatch, {"HTTP_PROXY": url})
            with (
                Client("http://models.example") as client,
                pytest.raises(errors.InvalidRequest, match=f"through the proxy {url} "),
            ):
                client.models()

    def test_no_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_proxies(monkeypatch, {"ALL_PROXY": "socks://x", "NO_PROXY": "a.example, .b.example"})
        for host in ("a.example", "a.example:3000", "x.b.example"):
            with Client(f"http://{host}") as client:
                assert client._core._endpoint.proxy == ""


def set_proxies(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


class TestArguments:
    def test_numbers_of_numpy(self, ask: Callable[..., Any], server_url: str) -> None:
        drawn = ask(server_url, "generate", np.int64(2), model="tiny", seed=np.uint8(3))
        again = ask(server_url, "generate", 2, model="tiny", seed=3)
        assert np.array_equal(drawn.images, again.images)
        options: Any = {"normalize": np.True_, "client": {"batch_size": np.int32(2)}}
        rows = ask(server_url, "embed", PIXELS, model=np.str_("tiny"), **options)
        assert rows.shape == (6, 4)
        with pytest.raises(TypeError):
            ask(server_url, "generate", 1.5, model="tiny")

    def test_any_kind_of_bytes(
        self, ask: Callable[..., Any], server_url: str, make_png: Callable[..., bytes]
    ) -> None:
        file = make_png()
        expected = ask(server_url, "embed", file, model="tiny")
        for images in (bytearray(file), memoryview(file), [bytearray(file)], [memoryview(file)]):
            assert np.array_equal(ask(server_url, "embed", images, model="tiny"), expected)

    @pytest.mark.parametrize("name", ["", "..", ".", None, 3])
    def test_names_that_no_model_has(
        self, ask: Callable[..., Any], server_url: str, name: Any
    ) -> None:
        for arguments in (("embed", PIXELS), ("posterior", PIXELS)):
            with pytest.raises(ValueError, match="expected the name of a model"):
                ask(server_url, *arguments, model=name)
        with pytest.raises(ValueError, match="expected the name of a model"):
            ask(server_url, "model", name)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_a_timeout_is_positive(self, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout is"):
            Client(timeout=timeout)
