"""Settings survive the environment unchanged, and errors name the variable."""

from __future__ import annotations

import pytest
from repzoo.errors import InvalidInput
from repzoo_serving.settings import Limits, Settings


def test_defaults_need_no_environment() -> None:
    assert Settings.from_environ({"HOME": "/root"}) == Settings()


def test_they_survive_the_way_to_a_worker() -> None:
    settings = Settings(
        models=("/a/b,c", "simvae-mnist@0123"),
        hub="/hub",
        provider="cpu",
        max_bytes=17,
        deadline_seconds=1.5,
        supervisor=42,
    )
    assert Settings.from_environ(settings.to_environ()) == settings


def test_people_write_names_with_commas() -> None:
    settings = Settings.from_environ({"REPZOO_SERVE_MODELS": "a, b@1 ,"})
    assert settings.models == ("a", "b@1")


def test_limits_are_what_callers_are_told() -> None:
    limits = Settings(models=("a",), supervisor=1, max_images=7).limits
    assert type(limits) is Limits
    assert limits == Limits(max_images=7)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REPZOO_SERVE_MAX_BYTES", "0"),
        ("REPZOO_SERVE_MAX_IMAGES", "many"),
        ("REPZOO_SERVE_DEADLINE_SECONDS", "inf"),
        ("REPZOO_SERVE_PROVIDER", "tpu"),
        ("REPZOO_SERVE_MAX_BYTE", "10"),
    ],
)
def test_bad_variables_are_named(variable: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=variable):
        Settings.from_environ({variable: value})


def test_a_queue_must_hold_the_largest_request() -> None:
    with pytest.raises(InvalidInput, match="max_queued"):
        Settings.from_environ({"REPZOO_SERVE_MAX_QUEUED": "10"})
