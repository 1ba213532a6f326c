"""The command ``zoo``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from repzoo import cli
from repzoo.packages.package import Package

COMMANDS = sorted(cli._COMMANDS)


def test_help_lists_every_command(zoo_here: Any) -> None:
    output = zoo_here("--help")
    for command in COMMANDS:
        assert f"\n  {command} " in output, command
    assert "..." not in output.split("Commands:")[1]
    assert zoo_here("-h") == output
    assert zoo_here(status=2).startswith("Usage: zoo")
    assert zoo_here("--version").startswith("zoo, version 0.")


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from repzoo.cli import main
sys.argv = ["zoo", "--help"]
try:
    main()
finally:
    heavy = "onnxruntime torch PIL numpy pydantic huggingface_hub starlette uvicorn cryptography"
    print([name for name in heavy.split() if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert "Serve models over HTTP" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(zoo_here: Any, command: str) -> None:
    assert f"Usage: zoo {command}" in zoo_here(command, "--help")


def test_the_help_of_zoo_is_the_first_line_of_each_command() -> None:
    for name, entry in cli._COMMANDS.items():
        if entry.home is not None:
            assert cli.import_command(name).get_short_help_str(limit=200) == entry.help


def test_a_session(zoo: Any, flat_hub: Path, tmp_path: Path, flip: Callable[..., None]) -> None:
    assert "tiny" in zoo("list")
    assert "pulled" in zoo("pull", "tiny")
    path = Path(zoo("path", "tiny").strip())
    assert "golden outputs verified on CPUExecutionProvider" in zoo(
        "verify", "tiny", "--provider=cpu"
    )

    out = tmp_path / "out"
    assert zoo("pull", "tiny", "--out", out).splitlines()[-1] == str(out / "tiny")
    assert "files verified" in zoo("verify", out / "tiny")

    for package, argument in [(path, "tiny"), (out / "tiny", out / "tiny")]:
        flip(package / "encoder.onnx")
        status, out, err = zoo.run("verify", argument, "--json")
        assert status == 1
        hint = "; to repair it: zoo pull tiny" if argument == "tiny" else ""
        said = "encoder.onnx does not have the manifest's sha256"
        assert err == f"zoo: {package}: {said}{hint}\n"
        assert json.loads(out)["error"]["files"] == ["encoder.onnx"]

    assert "repaired (encoder.onnx)" in zoo("pull", "tiny")
    assert "files verified" in zoo("verify", "tiny")
    assert zoo("rm", "tiny").endswith(": removed\n")
    assert "zoo pull tiny" in zoo("verify", "tiny", status=1)


def test_publishing(
    zoo_here: Any, tmp_path: Path, tiny_package: Path, other_tiny: Path, flat_hub: Path
) -> None:
    store = tmp_path / "store"
    assert "is a store; publish" in zoo_here("hub", "init", store)
    assert "no packages" in zoo_here("list", "--hub", store)
    assert "published to" in zoo_here("publish", tiny_package, "--hub", store)
    assert "is already the newest" in zoo_here("publish", tiny_package, "--hub", store)
    assert "published to" in zoo_here("publish", other_tiny, "--hub", store)
    info = zoo_here.json("info", "tiny", "--hub", store)
    assert len(info["revisions"]) == 2
    older = info["revisions"][1]
    pulled = zoo_here.json("pull", f"tiny@{older[:10]}", "--hub", store)
    assert pulled["revision"] == Package.open(tiny_package).revision
    assert "read-only" in zoo_here("publish", tiny_package, "--hub", flat_hub, status=1)
    assert "no such folder" in zoo_here("publish", tiny_package, "--hub", tmp_path / "no", status=1)
    assert "not a model package" in zoo_here("publish", tmp_path, "--hub", store, status=1)


def test_a_model_that_fails_its_golden_vectors_is_not_published(
    zoo_here: Any, store: Path, tiny_package: Path, other_tiny: Path, tmp_path: Path
) -> None:
    from repzoo.packages.package import write_manifest

    package = shutil.copytree(tiny_package, tmp_path / "swapped")
    shutil.copy(other_tiny / "encoder.onnx", package)
    write_manifest(package)
    assert "embedding is off by" in zoo_here("verify", package, status=1)
    assert "embedding is off by" in zoo_here("publish", package, "--hub", store, status=1)
    assert "files verified" in zoo_here("verify", package, "--files-only")
    assert zoo_here.json("list", "--hub", store) == []


def test_json(zoo_here: Any, flat_hub: Path, tmp_path: Path) -> None:
    lines = zoo_here.json("list")
    assert [line["name"] for line in lines] == ["plain", "tiny"]
    assert lines[1]["probes"] == ["digit.linear", "attributes.linear"]
    assert not lines[1]["cached"]

    pulled = zoo_here.json("pull", "tiny")
    assert pulled["hub"] == str(flat_hub)
    assert "encoder.onnx" in pulled["fetched"]
    assert zoo_here.json("list", "--cached")[0]["revision"] == pulled["revision"]
    assert zoo_here.json("path", "tiny") == {
        key: pulled[key] for key in ("name", "revision", "path")
    }

    info = zoo_here.json("info", "tiny")
    assert info["cached"]
    assert info["config"]["latent_dim"] == 4
    assert info["metrics"] == {"protocol": "none"}
    assert info["files"]["encoder.onnx"]["size"] > 0
    assert zoo_here.json("info", flat_hub / "tiny")["revision"] == info["revision"]

    verified = zoo_here.json("verify", "tiny")
    assert verified["ok"]
    assert [each["output"] for each in verified["golden"]] == [
        "embedding",
        "log_variance",
        "images",
    ]
    assert zoo_here.json("verify", "tiny", "--files-only")["revision"] == pulled["revision"]
    assert zoo_here.json("rm", "tiny") == {"name": "tiny", "removed": [pulled["revision"]]}
    assert zoo_here.json("hub", "init", tmp_path / "store") == {"hub": str(tmp_path / "store")}
    assert zoo_here.json("publish", flat_hub / "plain", "--hub", tmp_path / "store")["new"]

    error = zoo_here.json("pull", "nothing", status=1)["error"]
    assert error["type"] == "ModelNotFound"
    assert "nothing" in error["message"]


def test_one_bad_package_does_not_hide_the_others(zoo_here: Any, flat_hub: Path) -> None:
    (flat_hub / "plain" / "manifest.json").write_text("{}")
    plain, tiny = zoo_here("list").splitlines()[1:]
    assert "bad" in plain
    assert "posterior, decoder, probes" in tiny
    assert zoo_here.json("list")[0]["problem"]


def test_wrong_usage_exits_with_2(zoo_here: Any, flat_hub: Path) -> None:
    wrong = {
        ("nonsense",): "No such command 'nonsense'; see zoo --help",
        ("lsit",): "No such command 'lsit'. Did you mean 'list'?; see zoo --help",
        ("pull",): "Missing argument 'NAME[@REV]...'; see zoo pull --help",
        ("pull", "../tiny"): "'../tiny' is not a valid model name",
        ("pull", "tiny@"): "is not a valid revision",
        ("pull", "tiny", "--fast"): "No such option",
        ("verify", "tiny", "--provider", "tpu"): "tpu",
        ("publish", "x"): "--hub",
    }
    for arguments, message in wrong.items():
        output = zoo_here(*arguments, status=2)
        assert output.startswith("zoo: ")
        assert output.count("\n") == 1
        assert message in output


def test_errors_are_one_line(zoo_here: Any, flat_hub: Path, tmp_path: Path) -> None:
    wrong = {
        ("pull", "nothing"): "no package 'nothing'",
        ("pull", "tiny@0123456789"): "no revision '0123456789'",
        ("pull", "tiny", "--hub", "ftp://someone"): "ftp://someone",
        ("pull", "hf://someone/tiny", "--hub", flat_hub): "names its own hub",
        ("list", "--hub", tmp_path / "nowhere"): "no such folder",
        ("list", "--hub", ""): "the hub name is empty",
        ("info", "nothing"): "no package 'nothing'",
        ("info", tmp_path / "nowhere"): "not a model package",
        ("verify", tmp_path / "nowhere"): "not a model package",
        ("rm", "tiny"): "not in the cache",
        ("path", "tiny"): "zoo pull tiny",
        ("hub", "init", flat_hub): "not empty",
    }
    for arguments, message in wrong.items():
        output = zoo_here(*arguments, status=1)
        assert output.startswith("zoo: ")
        assert output.count("\n") == 1
        assert message in output


def test_a_closed_stdout_is_not_an_error(zoo: Any, flat_hub: Path) -> None:
    process = zoo.start("info", "tiny", "--json")
    process.stdout.close()
    assert process.wait(timeout=60) in (0, 1)
    assert process.stderr.read() == ""
    process.stderr.close()


def test_characters_that_stdout_cannot_encode_are_not_an_error(
    zoo: Any, flat_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    assert "?  name" in zoo("diff", "tiny", "plain")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    place = b"/tmp/\xff"
    monkeypatch.setenv("REPZOO_CACHE", os.fsdecode(place))
    command = [sys.executable, "-c", "from repzoo.cli import main; main()", "cache", "path"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == place + b"\n"


def test_a_full_disk_is_reported_with_its_path(
    zoo_here: Any, zoo_short_of_space: Any, flat_hub: Path, tmp_path: Path
) -> None:
    zoo_here("pull", "tiny")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    out = tmp_path / "out"
    message = zoo_short_of_space("pull", "tiny", "--out", out, status=1)
    assert message == f"zoo: {out / 'tiny'}: File too large\n"
    assert [*out.iterdir()] == []
    embed = ("embed", tmp_path / "black.png", "--model", "tiny", "--out", out / "black.parquet")
    message = zoo_short_of_space(*embed, status=1)
    assert re.fullmatch(rf"zoo: {out}/\S+: File too large\n", message)
    assert "1 images" in zoo_here(*embed)


def test_a_missing_extra_is_named(tmp_path: Path, flat_hub: Path) -> None:
    # The environment of a plain `pip install repzoo`, without extras.
    code = """
import importlib.abc, sys
class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"PIL", "onnxruntime", "torch", "bentoml"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NotInstalled())
from repzoo.cli import main
main()
"""

    def zoo(*args: str) -> tuple[int, str]:
        command = [sys.executable, "-c", code, *args]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.returncode, result.stderr

    assert zoo("list")[0] == 0
    assert zoo("pull", "tiny")[0] == 0
    assert zoo("verify", "tiny", "--files-only")[0] == 0
    status, message = zoo("verify", "tiny")
    assert status == 1
    assert message.startswith("zoo: ")
    assert "pip install 'repzoo[runtime]'" in message
    heavy = {
        ("serve", "--models", "tiny"): "serving",
        ("embed", "x", "--model", "tiny", "--out", "y"): "batch",
        ("train", "no-such-recipe", "--data", "x", "--out", "y"): "training",
    }
    for command, extra in heavy.items():
        assert zoo(command[0], "--help")[0] == 0
        status, message = zoo(*command)
        assert status == 1
        assert message.startswith(f"zoo: zoo {command[0]} needs the '{extra}' extra (")
        assert message.endswith(f"is not installed): pip install 'repzoo[{extra}]'\n")


def test_a_progress_bar_is_for_terminals_only(zoo_here: Any, flat_hub: Path) -> None:
    status, _, err = zoo_here.run("pull", "tiny")
    assert (status, err) == (0, "")
