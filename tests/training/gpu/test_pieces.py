"""Pieces and crates: what fits, what is damaged, what is missing."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
from repzoo_trips.errors import LuggageError
from repzoo_trips.pieces import PIECE, Store, describe, write_crates

#: A crate's own 22 bytes, and 204 for each entry.
CRATE, ENTRY = 22, 204


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two whole pieces and one of 1,000 bytes."""
    path = tmp_path / "file.bin"
    path.write_bytes(np.random.default_rng(0).bytes(2 * PIECE + 1000))
    return path


def crates(file: Path, out: Path, **limits: int) -> list[int]:
    """The sizes of the crates that the file goes into."""
    out.mkdir()
    pieces = describe(file).pieces
    sources = {piece: (file, index) for index, piece in enumerate(pieces)}
    allowed = {"files": 9, "file_bytes": 2**30, "total_bytes": 2**30, **limits}
    return [path.stat().st_size for path in write_crates(pieces, sources, out, **allowed)]


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_a_file_goes_through_crates_whole(tmp_path: Path, size: int) -> None:
    file = tmp_path / "data"
    file.write_bytes(np.random.default_rng(size).bytes(size))
    crates(file, tmp_path / "out")
    store = Store(tmp_path / "pieces")
    for crate in (tmp_path / "out").iterdir():
        store.take(crate)
    assert store.assemble(describe(file), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_crates_are_full_to_the_byte_and_not_over(file: Path, tmp_path: Path) -> None:
    one, two = CRATE + ENTRY + PIECE, CRATE + 2 * (ENTRY + PIECE)
    rest = CRATE + ENTRY + 1000
    assert crates(file, tmp_path / "a", file_bytes=one) == [one, one, rest]
    assert crates(file, tmp_path / "b", file_bytes=one - 1) == []
    assert crates(file, tmp_path / "c", file_bytes=two) == [two, rest]
    assert crates(file, tmp_path / "d", file_bytes=two - 1) == [one, one + ENTRY + 1000]
    whole = two + ENTRY + 1000
    assert crates(file, tmp_path / "e", total_bytes=whole) == [whole]
    assert crates(file, tmp_path / "f", total_bytes=whole - 1) == [two]
    assert crates(file, tmp_path / "g", file_bytes=one, total_bytes=2 * one + rest) == [
        *(one, one, rest)
    ]
    assert crates(file, tmp_path / "h", file_bytes=one, total_bytes=2 * one + rest - 1) == [
        one,
        one,
    ]
    assert crates(file, tmp_path / "i", file_bytes=one, files=2) == [one, one]


def test_a_damaged_piece_is_not_taken_and_the_others_are(file: Path, tmp_path: Path) -> None:
    crates(file, tmp_path / "out")
    crate = tmp_path / "out" / "crate-0.zip"
    data = bytearray(crate.read_bytes())
    data[PIECE + 5000] ^= 1  # in the second
    crate.write_bytes(data)
    store = Store(tmp_path / "pieces")
    with pytest.raises(LuggageError, match="1 pieces do not have their sha256"):
        store.take(crate)
    pieces = describe(file).pieces
    assert store.names() == {pieces[0], pieces[2]}
    assert not store.assemble(describe(file), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_entry_under_a_false_name_is_not_taken(tmp_path: Path) -> None:
    crate = tmp_path / "crate-0.zip"
    with zipfile.ZipFile(crate, "w") as archive:
        archive.writestr("../../escaped", b"x")
        archive.writestr("0" * 64, b"y")
        archive.writestr("large", bytes(PIECE + 1))
    store = Store(tmp_path / "pieces")
    with pytest.raises(LuggageError, match="3 pieces"):
        store.take(crate)
    assert not store.names()
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize("length", [0, 100, PIECE + 700])
def test_a_crate_cut_short_says_so(file: Path, tmp_path: Path, length: int) -> None:
    crates(file, tmp_path / "out")
    crate = tmp_path / "out" / "crate-0.zip"
    crate.write_bytes(crate.read_bytes()[:length])
    with pytest.raises(LuggageError, match=r"crate-0\.zip cannot be opened"):
        Store(tmp_path / "pieces").take(crate)


def test_pieces_in_the_wrong_order_are_no_file(file: Path, tmp_path: Path) -> None:
    crates(file, tmp_path / "out")
    store = Store(tmp_path / "pieces")
    store.take(tmp_path / "out" / "crate-0.zip")
    right = describe(file)
    wrong = dataclasses.replace(right, pieces=right.pieces[::-1])
    with pytest.raises(LuggageError, match="not the sum of its pieces"):
        store.assemble(wrong, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_file_that_changes_while_it_is_packed_is_an_error(file: Path, tmp_path: Path) -> None:
    pieces = describe(file).pieces
    file.write_bytes(bytes(3 * PIECE))
    sources = {piece: (file, index) for index, piece in enumerate(pieces)}
    with pytest.raises(LuggageError, match="changed while it was packed"):
        write_crates(pieces, sources, tmp_path, files=1, file_bytes=2**30, total_bytes=2**30)
