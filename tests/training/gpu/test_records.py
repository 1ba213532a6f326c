"""What is said in files: pending runs, plans and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from repzoo_training.recipe import find_recipe, override
from repzoo_trips.errors import LimitExceeded, LuggageError, PendingError
from repzoo_trips.pending import read_pending
from repzoo_trips.records import File, Limits, Report, RunState, Snapshot, dump, read

SHA = "0123456789abcdef" * 4
SNAPSHOT = Snapshot(
    run="a", step=3, steps=9, files=(File(name="x", size=1, sha256=SHA, pieces=(SHA,)),)
)
REPORT = Report(
    version=1,
    home="h",
    trip=2,
    machine="m",
    complete=True,
    files=(SHA,),
    pieces=(),
    runs=(RunState(name="a", state="open", step=3, steps=9, seconds=1.5, snapshot=SNAPSHOT),),
    crates={"crate-0.zip": SHA},
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(dump(REPORT))
    assert read(Report, tmp_path / "report.json") == REPORT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "is of version 2, this code writes 1"),
        ({"trip": "2"}, "trip is '2'; expected int"),
        ({"files": [7]}, r"files\[0\] is 7; expected str"),
        ({"extra": 1}, "unknown extra"),
        ({"runs": [{"name": "a"}]}, r"runs\[0\]: state missing"),
        ({"runs": [{"name": "a", "state": "asleep"}]}, "'asleep'"),
    ],
)
def test_a_record_that_is_none_names_the_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({**json.loads(dump(REPORT)), **change}))
    with pytest.raises(LuggageError, match=message):
        read(Report, path)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"'])
def test_a_damaged_record_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(LuggageError, match=r"report\.json"):
        read(Report, tmp_path / "report.json")


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "a b", "-x"])
def test_names_from_elsewhere_stay_below_their_folder(name: str) -> None:
    with pytest.raises(LuggageError, match="is no file name"):
        File(name=name, size=0, sha256=SHA, pieces=())
    with pytest.raises(LuggageError, match="is no file name"):
        Snapshot(run=name, step=0, steps=1, files=())


@pytest.mark.parametrize(
    "settings",
    [{"back_files": 1}, {"back_bytes": 2**20}, {"command_seconds": 20.0, "spare_seconds": 20.0}],
)
def test_limits_that_leave_no_room_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(LimitExceeded):
        Limits(**settings)


def test_every_pending_run_that_ships_is_a_recipe_and_has_its_settings(run_pending: Path) -> None:
    pending = read_pending(run_pending.with_name("pending.toml"))
    assert pending.limits == Limits(trip_bytes=66_000_000)
    for run in pending.runs:
        override(find_recipe(run.recipe), run.set)
        assert run.minutes > 0
    assert [run.priority for run in pending.runs] == sorted(run.priority for run in pending.run)


MACHINE = '[machine]\npython = "3.12"\nplatforms = []\n[data.a]\nfolder = "a"\n'
RUN = '[[run]]\nname = "r"\nrecipe = "simvae-mnist"\ndata = "a"\npriority = 1\nminutes = 1\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MACHINE + RUN + 'views = 1\nbudget = "1m"\n', "views and budget exclude each other"),
        (MACHINE + RUN + RUN, "two runs are called r"),
        (MACHINE + RUN.replace('"a"', '"b"'), r"there is no data set \[data\.b\]"),
        (MACHINE + RUN + "speed = 1\n", "unknown speed"),
        (MACHINE + RUN.replace("minutes = 1", 'minutes = "1"'), "expected float"),
        (RUN, "data, machine missing"),
        ("[", "pending.toml"),
    ],
)
def test_a_pending_file_that_cannot_be_used_says_where(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "pending.toml"
    path.write_text(text)
    with pytest.raises(PendingError, match=message):
        read_pending(path)


def test_a_run_becomes_the_words_of_zoo_train(tmp_path: Path) -> None:
    path = tmp_path / "pending.toml"
    path.write_text(
        MACHINE + RUN + 'budget = "2m"\nseed = 3\ncompile = true\nset = ["a=1", "b=2"]\n'
    )
    assert read_pending(path).runs[0].job().arguments == (
        *("--checkpoint", "60s", "--budget", "2m", "--seed", "3", "--compile"),
        *("--set", "a=1", "--set", "b=2"),
    )
