"""Signatures, made and verified by repzoo and by the reference implementation."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import repzoo
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from repzoo.packages.package import Package, write_manifest
from repzoo.packages.signatures import (
    check_signature,
    require_signature_of,
    sign_package,
    verify_signature,
)
from repzoo.store.store import Store

SIGNATURE = "manifest.json.sig"


def write_keys(folder: Path, name: str, key: Any = None, password: str = "") -> tuple[Path, Path]:
    """Write a private and a public key like openssl."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    secret = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def sign(folder: Path, key: Path) -> bytes:
    """Sign the package in a folder, and write the signature there."""
    signature = sign_package(Package.open(folder), key)
    (folder / SIGNATURE).write_bytes(signature)
    return signature


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "mine")


@pytest.fixture
def signed(package: Path, keys: tuple[Path, Path]) -> Path:
    sign(package, keys[0])
    return package


def model_signing(*arguments: str | Path) -> tuple[int, str]:
    """Run the command of the reference implementation."""
    result = subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_the_reference_implementation_accepts_our_signatures(
    signed: Path, keys: tuple[Path, Path], flip: Callable[..., None]
) -> None:
    # Files that are not signed.
    (signed / "README.md").write_text("Edited.\n")
    (signed / ".gitattributes").write_text("*.onnx filter=lfs\n")
    (signed / ".cache" / "huggingface").mkdir(parents=True)
    (signed / ".cache" / "huggingface" / "x.metadata").write_text("x")
    command = ["verify", "key", "--public_key", keys[1], "--signature", signed / SIGNATURE, signed]
    assert model_signing(*command) == (0, "Verification succeeded\n")
    flip(signed / "encoder.onnx")
    status, output = model_signing(*command)
    assert status != 0
    assert "Signature mismatch" in output
    assert "encoder.onnx" in output


def test_signatures_of_the_reference_implementation_are_accepted(
    package: Path, keys: tuple[Path, Path]
) -> None:
    status, output = model_signing(
        "sign", "key", "--private_key", keys[0], "--signature", package / SIGNATURE, package
    )
    assert status == 0, output
    assert verify_signature(Package.open(package), keys[1])


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_the_curves(package: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = write_keys(tmp_path, "key", ec.generate_private_key(curve))
    signature = sign(package, private)
    fingerprint = verify_signature(Package.open(package), public)
    assert len(fingerprint) == 64
    manifest = (package / "manifest.json").read_bytes()
    check_signature(manifest, signature, public, "here")
    with pytest.raises(repzoo.SignatureError, match="here is not signed"):
        check_signature(manifest, None, public, "here")
    with pytest.raises(
        repzoo.SignatureError, match=r"here: .* covers sha256 .* manifest\.json; expected"
    ):
        check_signature(manifest + b" ", signature, public, "here")


def test_signing_is_deterministic(package: Path, keys: tuple[Path, Path]) -> None:
    opened = Package.open(package)
    assert sign_package(opened, keys[0]) == sign_package(opened, keys[0])
    other, _ = write_keys(package.parent, "other")
    assert sign_package(opened, other) != sign_package(opened, keys[0])


def test_publishing_signs_the_published_copy_only(
    zoo_here: Any,
    package: Path,
    keys: tuple[Path, Path],
    store: Path,
    read_only: Callable[[Path], None],
) -> None:
    before = sorted(package.rglob("*"))
    read_only(package)
    publish = ["publish", package, "--hub", store, "--sign", keys[0]]
    assert zoo_here.json(*publish, "--dry-run")["signed"]
    assert zoo_here.json(*publish)["new"]
    assert sorted(package.rglob("*")) == before
    assert zoo_here.json("pull", "tiny", "--hub", store, "--key", keys[1])["fetched"]
    # The signature is deterministic, so it is the same revision again.
    again = zoo_here.json(*publish)
    assert again["signed"]
    assert not again["new"]
    missing = ["publish", package, "--hub", store, "--dry-run", "--sign", package / "no.pem"]
    assert "no.pem cannot be read" in zoo_here(*missing, status=1)


def test_signing_replaces_a_signature_in_the_package(
    zoo_here: Any, signed: Path, store: Path
) -> None:
    before = (signed / SIGNATURE).read_bytes()
    private, public = write_keys(signed.parent, "other")
    zoo_here("publish", signed, "--hub", store, "--files-only", "--sign", private)
    assert (signed / SIGNATURE).read_bytes() == before
    assert zoo_here.json("pull", "tiny", "--hub", store, "--key", public)["fetched"]


def test_a_session(
    zoo: Any, package: Path, keys: tuple[Path, Path], store: Path, cache: Path
) -> None:
    private, public = keys
    assert ", signed" in zoo("publish", package, "--hub", store, "--sign", private)
    zoo("pull", "tiny", "--hub", store)
    fingerprint = zoo.json("verify", "tiny", "--files-only", "--key", public)["signed_by"]
    assert f"signed with {fingerprint[:16]}" in zoo("verify", "tiny", "--key", public)
    _, other = write_keys(package.parent, "other")
    assert "was made with another key" in zoo("verify", "tiny", "--key", other, status=1)
    # Without a key, signatures are not checked.
    assert "signed" not in zoo("verify", "tiny", "--files-only")


def test_pull_accepts_only_signed_packages(
    zoo_here: Any, package: Path, keys: tuple[Path, Path], store: Path, cache: Path
) -> None:
    private, public = keys
    _, other = write_keys(package.parent, "other")
    pull = ["pull", "tiny", "--hub", store, "--key"]
    zoo_here("publish", package, "--hub", store, "--files-only")
    assert "is not signed" in zoo_here(*pull, public, status=1)
    zoo_here("publish", package, "--hub", store, "--files-only", "--sign", private)
    assert "another key" in zoo_here(*pull, other, status=1)
    # Nothing was fetched before the signature was verified.
    assert not (cache / "packages").exists()
    assert zoo_here.json(*pull, public)["fetched"]
    assert zoo_here.json(*pull, public, "--offline")["fetched"] == []
    for options in ([], ["--offline"]):
        assert "another key" in zoo_here(*pull, other, *options, status=1)
    revision = Package.open(package).revision
    pinned = ["pull", f"tiny@sha256:{revision}", "--hub", store, "--key"]
    assert zoo_here.json(*pinned, public)["revision"] == revision
    assert "another key" in zoo_here(*pinned, other, status=1)


def test_a_dry_run_fails_like_the_pull(
    zoo_here: Any, package: Path, keys: tuple[Path, Path], faulty_hub: Any, cache: Path
) -> None:
    private, public = keys
    _, other = write_keys(package.parent, "other")
    pull = ["pull", "tiny", "--hub", faulty_hub.spec, "--key"]
    faulty_hub.publish(package)

    def refused(key: Path) -> tuple[int, str, str]:
        dry = zoo_here.run(*pull, key, "--json", "--dry-run")
        assert dry == zoo_here.run(*pull, key, "--json")
        return dry

    assert "is not signed: it has no manifest.json.sig" in refused(public)[2]
    sign(package, private)
    faulty_hub.publish(package)
    assert "was made with another key" in refused(other)[2]
    assert "cannot be read: No such file" in refused(package / "no.pub")[2]
    faulty_hub.requests.clear()
    assert zoo_here.json(*pull, public, "--dry-run")["there"] == {}
    # Only the manifest and the signature were fetched.
    paths = [request.path for request in faulty_hub.requests if "/resolve/" in request.path]
    assert [path.rpartition("/")[2] for path in paths] == ["manifest.json", SIGNATURE]
    assert not cache.joinpath("packages").exists()
    assert zoo_here.json(*pull, public)["fetched"]
    # The cached package is checked as well.
    assert "another key" in refused(other)[2]


def test_an_unsigned_package(zoo_here: Any, package: Path, keys: tuple[Path, Path]) -> None:
    assert "is not signed: it has no manifest.json.sig" in zoo_here(
        "verify", package, "--key", keys[1], status=1
    )
    error = zoo_here.json("verify", package, "--key", keys[1], status=1)["error"]
    assert error["type"] == "SignatureError"


def test_a_changed_file(
    zoo_here: Any, signed: Path, keys: tuple[Path, Path], other_tiny: Path
) -> None:
    shutil.copy(other_tiny / "metrics.json", signed)
    shutil.copy(other_tiny / "encoder.onnx", signed)
    message = zoo_here("verify", signed, "--key", keys[1], status=1)
    assert "encoder.onnx does not have the manifest's sha256" in message
    # A changed manifest does not match the signature.
    package = write_manifest(signed)
    message = zoo_here("verify", signed, "--key", keys[1], "--files-only", status=1)
    assert "manifest.json.sig covers sha256" in message
    assert package.revision[:12] in message


def damage(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def damaged(signature: bytes) -> bytes:
        bundle = json.loads(signature)
        change(bundle)
        return json.dumps(bundle).encode()

    return damaged


def change_payload(bundle: dict[str, Any]) -> None:
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["subject"][0]["name"] = "other"
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-20], "cannot be read"),
    "empty": (lambda _: b"", "cannot be read"),
    "not json": (lambda _: b"\xff\xfe", "cannot be read"),
    "a list": (lambda _: b"[]", "cannot be read"),
    "deep": (lambda _: b"[" * 200_000, "cannot be read"),
    "large": (lambda data: data + b" " * 2**20, "more than 1048576 bytes"),
    "another kind": (damage(lambda b: b.update(mediaType="x")), "its media type is 'x'"),
    "no envelope": (damage(lambda b: b.pop("dsseEnvelope")), "'dsseEnvelope' is missing"),
    "a certificate": (
        damage(lambda b: b.update(verificationMaterial={"certificate": {}})),
        "not made with a key pair",
    ),
    "not base64": (damage(lambda b: b["dsseEnvelope"].update(payload="?")), "not base64"),
    "no signature": (damage(lambda b: b["dsseEnvelope"].update(signatures=[])), "cannot be read"),
    "another signature": (
        damage(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA")),
        "not made with this key, or was changed afterwards",
    ),
    "changed content": (
        damage(change_payload),
        "not made with this key, or was changed afterwards",
    ),
    "no hint and changed": (
        damage(lambda b: (b["verificationMaterial"]["publicKey"].clear(), change_payload(b))),
        "not made with this key, or was changed afterwards",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_signature(case: str, signed: Path, keys: tuple[Path, Path]) -> None:
    change, message = DAMAGES[case]
    path = signed / SIGNATURE
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(repzoo.SignatureError, match=message):
        verify_signature(Package.open(signed), keys[1])


def test_a_signature_of_something_else(
    package: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """A valid signature with the right key, over a folder without a manifest."""
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(package / "config.json", folder)
    status, output = model_signing(
        "sign", "key", "--private_key", keys[0], "--signature", package / SIGNATURE, folder
    )
    assert status == 0, output
    with pytest.raises(repzoo.SignatureError, match=r"covers no manifest\.json"):
        verify_signature(Package.open(package), keys[1])


def test_a_link_is_not_a_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / SIGNATURE).rename(signed.parent / "aside")
    (signed / SIGNATURE).symlink_to(signed.parent / "aside")
    with pytest.raises(repzoo.SignatureError, match="symbolic link"):
        verify_signature(Package.open(signed), keys[1])


def test_a_signature_of_an_older_revision_is_not_published(
    zoo_here: Any, signed: Path, keys: tuple[Path, Path], store: Path
) -> None:
    (signed / "metrics.json").write_text("{}\n")
    write_manifest(signed)
    message = zoo_here("publish", signed, "--hub", store, "--files-only", status=1)
    assert "covers sha256" in message
    assert Store(store).names() == []
    (signed / SIGNATURE).rename(signed.parent / "aside")
    require_signature_of(Package.open(signed))
    publish = ["publish", signed, "--hub", store, "--files-only"]
    assert "signed" not in zoo_here(*publish)
    (signed.parent / "aside").rename(signed / SIGNATURE)
    assert ", signed" in zoo_here(*publish, "--sign", keys[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a private key in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is not a private key"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_that_are_not_keys(
    zoo_here: Any, package: Path, store: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_bytes(content)
    options = ["--hub", store, "--files-only", "--sign", key]
    assert message in zoo_here("publish", package, *options, status=1)
    assert not (package / SIGNATURE).exists()
    assert Store(store).names() == []


def test_keys_of_other_kinds(package: Path, tmp_path: Path) -> None:
    opened = Package.open(package)
    edwards = write_keys(tmp_path, "edwards", ed25519.Ed25519PrivateKey.generate())
    for action, key in [(sign_package, edwards[0]), (verify_signature, edwards[1])]:
        with pytest.raises(repzoo.InvalidInput, match="not an elliptic-curve key"):
            action(opened, key)
    bitcoin = write_keys(tmp_path, "bitcoin", ec.generate_private_key(ec.SECP256K1()))
    with pytest.raises(repzoo.InvalidInput, match="curve secp256k1; expected P-256"):
        sign_package(opened, bitcoin[0])
    # Confusing private and public keys is reported.
    for action, key in [(sign_package, edwards[1]), (verify_signature, edwards[0])]:
        with pytest.raises(repzoo.InvalidInput, match=r"not a (private|public) key in PEM form"):
            action(opened, key)


def test_a_key_with_a_password(
    zoo_here: Any, package: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_keys(tmp_path, "locked", password="sesame")
    publish = ["publish", package, "--hub", store, "--files-only", "--sign", private]
    monkeypatch.setenv("REPZOO_KEY_PASSWORD", "wrong")
    assert "or its password is wrong" in zoo_here(*publish, status=1)
    monkeypatch.setenv("REPZOO_KEY_PASSWORD", "sesame")
    assert ", signed" in zoo_here(*publish)
    pulled = zoo_here.json("pull", "tiny", "--hub", store, "--key", public)
    assert verify_signature(Package.open(pulled["path"]), public)
    # A key without a password needs none.
    plain, _ = write_keys(tmp_path, "plain")
    sign_package(Package.open(package), plain)


def test_without_the_extra(signed: Path, keys: tuple[Path, Path]) -> None:
    code = """
import importlib.abc, sys
class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"cryptography", "model_signing"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NotInstalled())
from repzoo.cli import main
main()
"""
    command = [sys.executable, "-c", code, "verify", str(signed), "--files-only"]
    assert subprocess.run(command, check=False).returncode == 0
    result = subprocess.run(
        [*command, "--key", str(keys[1])], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "signatures needs the 'signing' extra" in result.stderr
    assert "pip install 'repzoo[signing]'" in result.stderr
