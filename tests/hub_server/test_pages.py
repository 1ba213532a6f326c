"""The web pages: what they show, and that cards cannot inject anything into them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from repzoo.hub_server.pages.markdown import render

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8cfc0f01f00050001ffa5d2d7b10000000049454e44ae426082"
)
CARD = """---
license: mit
model-index:
- name: pages
  results:
  - dataset: {name: mnist}
    metrics:
    - {type: accuracy, name: majority, value: 11.35}
    - {type: accuracy, name: knn_cosine, value: 97.712}
---
# A card

<script>alert(1)</script>
<img src=x onerror=alert(2)>
[click](javascript:alert(3)) [data](data:text/html,x) [file](figures/one.png) [out](https://a.org)

![a figure](figures/one.png) ![elsewhere](https://a.org/t.png) ![gone](../../x.png)

| a | b |
| --- | --- |
| <b>1</b> | 2 |
"""


def test_the_pages(shared: Any, client: Callable[..., Any], tiny_package: Any) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/pages")
    first = api.upload_folder(
        repo_id="zoo/pages", folder_path=tiny_package, commit_message="<i>One</i>"
    )
    api.create_tag("zoo/pages", tag="v1")
    for path, content in (("README.md", CARD.encode()), ("figures/one.png", PNG)):
        api.upload_file(repo_id="zoo/pages", path_or_fileobj=content, path_in_repo=path)
    commit = api.model_info("zoo/pages").sha

    with shared.server.http() as http:
        for address in ("/", "/zoo"):
            listing = http.get(address)
            row = re.search(r"<tr>(?:(?!<tr>).)*/zoo/pages.*?(?=<tr>|</table>)", listing.text)
            assert row is not None
            for shown in (
                "mnist knn cosine <b>97.71</b>",
                "KiB",
                "A random linear model",
                "<td>4<td>",
            ):
                assert shown in row[0], shown
            assert "majority" not in row[0]

        page = http.get("/zoo/pages")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script" not in policy
        text = page.text
        assert f"zoo pull pages --hub {shared.url}/zoo" in text
        assert "&lt;i&gt;One&lt;/i&gt;" in text
        assert first.oid[:12] in text
        assert "<small>v1</small>" in text
        assert "encoder.onnx" in text
        # HTML, scripts and external images of the card are removed.
        assert "&lt;script&gt;alert(1)" in text
        assert not re.search(
            r"<script|<img[^>]*onerror|<b>1|href=.?(javascript|data):|a\.org/t", text
        )
        assert re.findall(r"<img[^>]*src=\"([^\"]*)", text) == [
            f"/zoo/pages/resolve/{commit}/figures/one.png"
        ]
        assert '<a href="https://a.org" rel="nofollow noopener">out</a>' in text
        assert "elsewhere gone" in text  # the images' alternative texts

        figure = http.get(f"/zoo/pages/resolve/{commit}/figures/one.png")
        assert figure.content == PNG
        assert figure.headers["content-type"] == "image/png"
        raw = http.get("/zoo/pages/resolve/main/README.md")
        assert raw.headers["content-disposition"].startswith("attachment")
        for response in (figure, raw):
            assert "sandbox" in response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff"

        older = http.get(f"/zoo/pages/tree/{first.oid}").text
        assert "A card" not in older
        assert f"zoo pull pages@{first.oid[:12]} --hub" in older
        assert http.get("/zoo/pages/tree/v1").text == older
        assert http.get(f"/zoo/pages/commit/{first.oid}").text == older

        people = {"Accept": "text/html"}
        missing = http.get("/zoo/nothing", headers=people)
        assert missing.status_code == 401
        assert "there is no repository &#x27;zoo/nothing&#x27;" in missing.text
        assert missing.text.startswith("<!doctype html>")
        assert http.get("/zoo/pages/tree/v9", headers=people).status_code == 404
        assert http.get("/login", headers=people).headers["www-authenticate"].startswith("Basic")
        signed = http.get("/login", auth=("x", shared.tokens.read))
        assert (signed.status_code, signed.headers["location"]) == (303, "/")


def test_a_repository_without_a_package_has_a_page(shared: Any, client: Callable[..., Any]) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/bare")
    with shared.server.http() as http:
        page = http.get("/zoo/bare").text
        assert "This model has no card." in page
        assert "This revision has no files." in page
        assert "Nothing has been published yet." in page
        assert "initial commit" not in page
        files = {"config.json": b"{", "README.md": b"---\n\0", "a'b<c>.txt": b"x"}
        for path, content in files.items():
            api.upload_file(repo_id="zoo/bare", path_or_fileobj=content, path_in_repo=path)
        page = http.get("/zoo/bare").text
        assert "a&#x27;b&lt;c&gt;.txt" in page
        assert "<c>" not in page
        assert page.count("/zoo/bare/tree/") == 3
        (link,) = re.findall(r"href='([^']*%3C[^']*)'", page)
        assert http.get(link).text == "x"
        assert "/zoo/bare" in http.get("/").text


def test_hostile_markdown() -> None:
    def nowhere(_: str) -> None:
        return None

    for text in ("[" * 9000, "*a " * 9000, "> " * 9000, "`" * 9000, "![" * 9000, "- " * 9000):
        assert isinstance(render(text, nowhere), str)
    assert render("<b>" * 100_000, nowhere).startswith("<pre>&lt;b&gt;")
