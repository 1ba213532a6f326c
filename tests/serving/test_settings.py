"""Settings come from flags, variables, a file and defaults; errors name the place."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from repzoo.errors import InvalidInput
from repzoo_serving.cli import serve
from repzoo_serving.configuration import configure, flag, to_environ, variable
from repzoo_serving.settings import PRIVATE, SECTIONS, Limits, Settings

NAMES = [name for names in SECTIONS.values() for name in names]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def file(text: str) -> Path:
        path = tmp_path / "repzoo.toml"
        path.write_text(text)
        return path

    return file


def test_every_setting_is_in_a_section_and_has_a_meaning() -> None:
    assert sorted([*NAMES, *PRIVATE]) == sorted(Settings.model_fields)
    assert all(Settings.model_fields[name].description for name in NAMES)


def test_defaults_need_no_environment() -> None:
    assert configure({"HOME": "/root"}).settings == Settings()


def test_they_survive_the_way_to_a_worker() -> None:
    settings = Settings(
        models=("/a/b,c", "simvae-mnist@0123"),
        hub="/hub",
        provider="cpu",
        max_bytes=17,
        deadline_seconds=1.5,
        public=(),
        supervisor=42,
    )
    assert configure(to_environ(settings)).settings == settings


def test_people_write_names_with_commas() -> None:
    assert configure({"REPZOO_SERVE_MODELS": "a, b@1 ,"}).settings.models == ("a", "b@1")


def test_limits_are_what_callers_are_told() -> None:
    limits = Settings(models=("a",), supervisor=1, max_images=7).limits
    assert type(limits) is Limits
    assert limits == Limits(max_images=7)


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(
    write: Callable[[str], Path],
) -> None:
    file = write("max_images = 1\nmax_batch = 1\nrate = 1\n")
    environ = {"REPZOO_SERVE_MAX_IMAGES": "2", "REPZOO_SERVE_MAX_BATCH": "2"}
    found = configure(environ, {"max_images": 3, "rate": None}, file)
    settings = found.settings
    assert (settings.max_images, settings.max_batch, settings.rate) == (3, 2, 1)
    assert settings.max_queued == Settings().max_queued
    assert found.sources == {
        "max_images": "--max-images",
        "max_batch": "REPZOO_SERVE_MAX_BATCH",
        "rate": f"{file}: rate",
    }
    # A variable can name the file, too.
    assert configure({"REPZOO_SERVE_CONFIG": str(file)}).settings.rate == 1


def test_models_and_watch_replace_each_other(write: Callable[[str], Path]) -> None:
    file = write('models = "a"\n')
    found = configure({}, {"watch": "wanted"}, file)
    assert (found.settings.models, found.settings.watch) == ((), "wanted")
    found = configure({"REPZOO_SERVE_WATCH": "wanted"}, {"models": "a,b"})
    assert (found.settings.models, found.settings.watch) == (("a", "b"), None)
    with pytest.raises(InvalidInput, match="--models and --watch are alternatives"):
        configure({}, {"models": "a", "watch": "b"})


def test_paths_are_relative_to_the_file(write: Callable[[str], Path], tmp_path: Path) -> None:
    file = write('keys = "keys"\nhub = "hub"\nmodels = ["a@v1", "./b", "c=./d", "/e", "f=g"]\n')
    settings = configure({}, file=file).settings
    assert settings.keys == str(tmp_path / "keys")
    assert settings.hub == str(tmp_path / "hub")
    at = str(tmp_path)
    assert settings.models == ("a@v1", f"{at}/b", f"c={at}/d", "/e", "f=g")
    file = write('watch = "wanted"\nhub = "hf://me"\n')
    settings = configure({}, file=file).settings
    assert (settings.watch, settings.hub) == (f"{at}/wanted", "hf://me")
    assert configure({}, file=write('models = "./b, a"\n')).settings.models == (f"{at}/b", "a")
    # Those of variables and flags are relative to the working folder, as everywhere.
    assert configure({"REPZOO_SERVE_KEYS": "keys"}, file=file).settings.keys == "keys"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MAX_BYTES", "0", "greater than 0, got '0'"),
        ("MAX_IMAGES", "many", "valid integer"),
        ("DEADLINE_SECONDS", "inf", "finite number"),
        ("PROVIDER", "tpu", "'cpu' or 'cuda', got 'tpu'"),
        ("OTLP", "localhost:4318", "expected a URL such as http://127.0.0.1:4318, got 'localhost"),
        ("PUBLIC", "health,everything", "item 1: Input should be 'health'"),
        ("MAX_BYTE", "10", "not a setting; did you mean REPZOO_SERVE_MAX_BYTES?"),
        ("ZZZ", "10", "not a setting; zoo serve --print-config lists them"),
        ("SUPERVISOR_KE", "x", "not a setting; "),
    ],
)
def test_bad_variables_are_named(variable: str, value: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=f"^REPZOO_SERVE_{variable}.*{said}") as caught:
        configure({f"REPZOO_SERVE_{variable}": value})
    assert "supervisor" not in str(caught.value).partition(";")[2].lower()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_image = 3", "max_image is not a setting; did you mean max_images?"),
        ("cors-origins = '*'", "did you mean cors_origins?"),
        ("supervisor = 3", "supervisor is not a setting"),
        ("[serve]\nmax_images = 3", "serve is not a setting"),
        ("max_images = -3", "max_images: Input should be greater than 0, got -3"),
        ("max_images = [3]", "max_images: Input should be a valid integer"),
        ("models = [3]", "models: item 0: Input should be a valid string, got 3"),
        ("workers = true", "workers: no setting is true or false"),
        ("watch = 'a'\nmodels = ['a']", "are alternatives"),
        ("max_images", "is not a TOML file: Expected '='"),
        ("max_images = 3\nmax_images = 4", "is not a TOML file: Cannot overwrite a value"),
    ],
)
def test_a_bad_file_is_named_with_its_key(
    write: Callable[[str], Path], text: str, said: str
) -> None:
    file = write(text)
    with pytest.raises(InvalidInput) as caught:
        configure({}, file=file)
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "nope", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidInput, match=said):
            configure({}, file=path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="is not a TOML file"):
        configure({}, file=tmp_path / "binary")


def test_a_queue_must_hold_the_largest_request() -> None:
    with pytest.raises(InvalidInput, match=r"^max_queued \(10\) must be at least"):
        configure({"REPZOO_SERVE_MAX_QUEUED": "10"})


def zoo_serve(*arguments: object, **environ: str) -> Any:
    return CliRunner().invoke(serve, [*map(str, arguments)], env=environ, catch_exceptions=False)


def test_help_has_every_setting_and_the_precedence() -> None:
    text = " ".join(zoo_serve("--help").output.split())
    assert all(f" {flag(name)} " in text for name in NAMES)
    assert "A flag wins over a variable, a variable over the file, and the file over" in text
    assert "(CORS)" in text


def test_what_is_printed_is_a_file_that_gives_the_same_settings(
    write: Callable[[str], Path], tmp_path: Path
) -> None:
    file = write('models = ["simvae-mnist", "c=./é\\"x"]\nrate = 2\n')
    words = ("--config", file, "--print-config", "--max-images", 64, "--log", "json")
    text = zoo_serve(*words, REPZOO_SERVE_CORS_ORIGINS="https://a.example, *").output
    assert "max_images = 64  # from --max-images\n" in text
    assert f"rate = 2.0  # from {file}: rate\n" in text
    assert "# provider is not set\n" in text
    assert "supervisor" not in text
    assert tomllib.loads(text)["max_bytes"] == 33554432
    again = tmp_path / "again.toml"
    again.write_text(text)
    settings = configure({}, file=again).settings
    assert settings.models == ("simvae-mnist", f'c={tmp_path}/é"x')
    assert settings.cors_origins == ("https://a.example", "*")
    assert (settings.max_images, settings.rate, settings.log) == (64, 2, "json")
    again.write_text(zoo_serve("--print-config", "--watch", "/wanted", "--public", "").output)
    settings = configure({}, file=again).settings
    assert (settings.watch, settings.public) == ("/wanted", ())


def test_zoo_serve_takes_a_file(
    server_process: Any, tiny_package: Path, tmp_path: Path, write: Callable[[str], Path]
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_package)
    file = write('models = ["photos=./tiny"]\nport = 0\nmax_images = 5\nlog = "json"\nrate = 1\n')
    log = tmp_path / "log"
    env = {"REPZOO_SERVE_MAX_IMAGES": "6", variable("rate"): "2"}
    words = ("--config", str(file), "--rate", "0")
    with server_process(*words, log=log, env=env) as server:
        url = server.wait_until_ready()
        (model,) = httpx.get(f"{url}/models").json()["models"]
        assert model["name"] == "photos"
        assert model["limits"]["max_images"] == 6
        # The flag that restores a default reaches the worker.
        (worker,) = server.workers()
        assert variable("rate") not in worker.environ()
        assert server.stop() == 0


def test_a_check_reports_all_problems_at_once(
    tiny_package: Path, tmp_path: Path, write: Callable[[str], Path]
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_package)
    (tmp_path / "wanted").write_text("tiny=./tiny\nother=./other\ntiny=./tiny\n")
    file = write('watch = "wanted"\nkeys = "nokeys"\nindex_images = "pictures"\n')
    words = (
        "--check",
        "--config",
        file,
        "--hub",
        tmp_path / "nohub",
        "--index",
        tmp_path / "noindex",
    )
    done = zoo(*words)
    assert (done.returncode, done.stdout) == (1, "")
    starts = (
        f"{file}: keys: {tmp_path}/nokeys: No such file",
        f"{file}: index_images: {tmp_path}/pictures is not a folder",
        f"--hub: {tmp_path}/nohub: no such folder",
        f"{file}: watch: {tmp_path}/other is not a model package",
        f"--index: there is no index in {tmp_path}/noindex",
    )
    for line, start in zip(done.stderr.splitlines(), starts, strict=True):
        assert line.startswith(f"zoo: {start}")
    # A start reports the first of them, before it pulls models.
    done = zoo(*words[1:])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert all(start in done.stderr for start in starts[:3])

    done = zoo("--check", "--models", tmp_path / "tiny", "--cors-origins", "https://a.example,*")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("tiny  ")
    (worse,) = zoo("--check", "--cors-origins", "https://a.example/").stderr.splitlines()
    assert "--cors-origins: item 0: expected * or an origin" in worse


def zoo(*words: object) -> Any:
    command = [sys.executable, "-c", "from repzoo.cli import main; main()", "serve"]
    command += map(str, words)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "origin", ["https://A.example", "https://a.example:443", "http://a.example:80", "a.example"]
)
def test_origins_that_no_browser_sends(origin: str) -> None:
    with pytest.raises(InvalidInput, match="an origin as browsers send it"):
        configure({"REPZOO_SERVE_CORS_ORIGINS": f"null, https://a.example:8443, {origin}"})


def test_wrong_settings_are_one_line(tmp_path: Path, write: Callable[[str], Path]) -> None:
    for words, status, said in (
        (("--config", write("max_image = 1")), 1, "did you mean max_images?"),
        (("--rate", "-1"), 2, "--rate"),
        (("--port", "many"), 2, "--port"),
        (("--watch", tmp_path / "nope"), 1, "is not a file"),
        ((), 2, "give either --models or --watch"),
    ):
        done = zoo(*words)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
