"""Files of API keys and hub tokens: both older formats, editing, damage and races."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path

import pytest
from repzoo.errors import InvalidInput
from repzoo.secrets_file import Secret, SecretFile, add_secret, read_secrets, revoke_secret


def sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def test_a_secret_is_found_until_it_is_revoked(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    secret = add_secret(file, "ci", prefix="zoo_", role="write")
    other = add_secret(file, "App@home", prefix="rz_", rate=2.5, burst=10)
    assert secret.startswith("zoo_")
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in file.read_text()
    watched = SecretFile(file)
    found = watched.find(secret)
    assert found is not None
    assert (found.name, found.role, found.rate) == ("ci", "write", None)
    assert found.created is not None
    app = watched.find(other)
    assert app is not None
    assert (app.role, app.rate, app.burst) == (None, 2.5, 10)
    for wrong in ("", secret[:-1], secret + "x", found.sha256, "\ud800"):
        assert watched.find(wrong) is None
    revoke_secret(file, "ci")
    assert watched.find(secret) is None
    assert watched.find(other) == app


def test_keys_in_the_older_text_format_work_and_stay_as_they_are(tmp_path: Path) -> None:
    old = f"# our keys\n\n4f9d02ac61b3 {sha256('rz_1')} photo-app rate=50 burst=100\r\n"
    old += f"5f9d02ac61b3 {sha256('rz_2')} other\n"
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbf" + old.encode())
    file.chmod(0o644)
    assert SecretFile(file).find("rz_1") == Secret("photo-app", sha256("rz_1"), None, 50, 100)
    new = add_secret(file, "new", prefix="rz_")
    revoke_secret(file, "other")
    lines = file.read_text().splitlines()
    assert lines[:3] == old.splitlines()[:3]
    assert [each.name for each in read_secrets(file)] == ["photo-app", "new"]
    assert SecretFile(file).find(new)
    # Its group may still read it; nobody else may.
    assert file.stat().st_mode & 0o777 == 0o640


def test_tokens_in_the_older_json_format_become_lines_when_one_is_added(tmp_path: Path) -> None:
    token = {"role": "write", "sha256": sha256("zoo_1"), "created": "2026-11-28T09:30:00.5Z"}
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tokens": [{"name": "ci", **token}]}, indent=2))
    before = SecretFile(file).find("zoo_1")
    assert before is not None
    assert (before.name, before.role) == ("ci", "write")
    assert before.created is not None
    assert before.created.year == 2026
    add_secret(file, "laptop", prefix="zoo_", role="read")
    assert file.read_text().startswith("# SHA-256")
    assert SecretFile(file).find("zoo_1") == before
    assert [each.name for each in read_secrets(file)] == ["ci", "laptop"]


def test_errors_name_the_line_and_what_was_expected(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    good = f"{sha256('a')} a"
    for line, problem in (
        ("abc a", "expected a SHA-256 of 64 hexadecimal digits"),
        (sha256("a").upper() + " a", "expected a SHA-256"),
        (sha256("b"), "and a name"),
        (f"{sha256('b')} a/b", "cannot name a secret"),
        (f"{sha256('b')} b rate=0", "number above 0"),
        (f"{sha256('b')} b rate=nan", "number above 0"),
        (f"{sha256('b')} b role=admin", "role=read|write"),
        (f"{sha256('b')} b role=read role=write", "role=read|write"),
        (f"{sha256('b')} b created=yesterday", "created=TIME"),
        (f"{sha256('b')} b colour=red", "expected role"),
        (f"{sha256('a')} b", "the same secret as a"),
    ):
        file.write_text(f"{good}\n{line}\n")
        with pytest.raises(InvalidInput, match="line 2: ") as caught:
            read_secrets(file)
        assert problem in str(caught.value)
    for content in (b"\xff\xfe", b"{", b'{"tokens": 3}', b"[" * 10**5, bytes(2**22 + 1)):
        file.write_bytes(content)
        with pytest.raises(InvalidInput, match=str(file)):
            read_secrets(file)
    with pytest.raises(InvalidInput, match="No such file"):
        read_secrets(tmp_path / "nothing")
    with pytest.raises(InvalidInput, match="does not exist"):
        revoke_secret(tmp_path / "nothing", "a")
    with pytest.raises(InvalidInput, match="cannot name"):
        add_secret(tmp_path / "new", "a b", prefix="zoo_")
    with pytest.raises(InvalidInput, match="above 0"):
        add_secret(tmp_path / "new", "a", prefix="zoo_", rate=-1)
    assert not (tmp_path / "new").exists()


def test_a_damaged_file_changes_nothing_and_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secrets"
    secret = add_secret(file, "a", prefix="zoo_")
    watched = SecretFile(file)
    file.write_text("nonsense")
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            assert watched.find(secret)
    assert len(caplog.records) == 1
    with pytest.raises(InvalidInput):
        SecretFile(file)


def test_a_linked_file_is_read_and_edited_where_it_lies(tmp_path: Path) -> None:
    """Kubernetes mounts secrets as links to links."""
    (tmp_path / "data").mkdir()
    link = tmp_path / "secrets"
    link.symlink_to(tmp_path / "data" / "secrets")
    first = add_secret(tmp_path / "data" / "secrets", "a", prefix="zoo_")
    watched = SecretFile(link)
    assert watched.find(first)
    second = add_secret(link, "b", prefix="zoo_")
    assert link.is_symlink()
    assert watched.find(second)


def test_edits_at_the_same_time_all_take_effect(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    add_secret(file, "first", prefix="zoo_")
    threads = [
        threading.Thread(target=add_secret, args=(file, f"n{number}"), kwargs={"prefix": "zoo_"})
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_secrets(file)) == 9


def test_a_check_interval_delays_revocations_only(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    first = add_secret(file, "first", prefix="zoo_")
    slow, fast = SecretFile(file, check_seconds=60), SecretFile(file)
    second = add_secret(file, "second", prefix="zoo_")
    assert slow.find(second) is not None
    assert fast.find(second) is not None
    revoke_secret(file, "first")
    assert slow.find(first) is not None
    assert fast.find(first) is None
