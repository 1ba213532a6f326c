"""Signatures of packages, in the OpenSSF model-signing format with a pair of keys, offline.

``manifest.json.sig`` is a Sigstore bundle with a DSSE envelope around an in-toto statement: the
sha256 of ``manifest.json`` and of every file that it lists, signed by ECDSA. Any tool that knows
the format can check it, for one

    model_signing verify key --public_key key.pub --signature NAME/manifest.json.sig NAME

and what such a tool has signed can be checked here. Making and checking them takes only
``cryptography``; a pair of keys is made by

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem
    openssl ec -in key.pem -pubout -out key.pub

The card and what git, macOS and ``hf download`` leave beside a package are not signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from repzoo.errors import InvalidInput, MissingExtra, SignatureError
from repzoo.files import open_regular, write_atomically
from repzoo.packages.package import ADVISORY, MANIFEST, SIGNATURE, Package

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = [
    "check_signature",
    "is_encrypted",
    "read_signature",
    "require_signature_of",
    "sign_package",
    "verify_signature",
]

#: No signature is larger: it has a line for each file.
MAX_SIGNATURE_BYTES = 2**20

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
#: What verifiers are told to pass over: the signature, the card, and what others leave there.
_IGNORED = (SIGNATURE, *sorted(ADVISORY), ".git", ".gitattributes", ".DS_Store", ".cache")


def sign_package(package: Package, key: Path, password: str | None = None) -> bytes:
    """Sign a package that was verified, and write the signature beside its manifest.

    A signature by the same key that is there and good stays: signing again would give other bytes.

    Args:
        package: what to sign.
        key: a private key in a PEM file, on the curve P-256, P-384 or P-521.
        password: of the key, if it is encrypted.

    Returns:
        The signature, as written.

    Raises:
        InvalidInput: if the key cannot be used.
        MissingExtra: if there is nothing here to sign with.
    """
    private = _private_key(key, password)
    try:
        old = read_signature(package)
        _check(package.revision, old, private.public_key(), "")
        return old
    except SignatureError:
        pass
    files = {name: e.sha256 for name, e in package.manifest.files.items() if name not in ADVISORY}
    statement = _statement(package.config.name, files | {MANIFEST: package.revision})
    payload = json.dumps(statement, sort_keys=True).encode()
    hint = _fingerprint(private.public_key())
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD,
        "signatures": [
            {"sig": base64.b64encode(_sign(private, _encoded(payload))).decode(), "keyid": ""}
        ],
    }
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    signature = json.dumps(bundle).encode()
    write_atomically(package.path / SIGNATURE, signature)
    return signature


def is_encrypted(key: Path) -> bool:
    """Whether a private key needs a password.

    Raises:
        InvalidInput: if the file cannot be read.
    """
    return b"ENCRYPTED" in _read_key(key)


def verify_signature(package: Package, key: Path) -> str:
    """Check that a package was signed with a key; `Package.verify` says if its files are right.

    Args:
        package: what must be signed.
        key: the public key, in a PEM file.

    Returns:
        The key's fingerprint: sha256 of its PEM form, in hex.

    Raises:
        SignatureError: if it is not signed, not with this key, or the signature is not good.
        InvalidInput: if the key cannot be used.
        MissingExtra: if there is nothing here to check it with.
    """
    public = _public_key(key)
    _check(package.revision, read_signature(package), public, f"{package.path}: ")
    return _fingerprint(public)


def check_signature(manifest: bytes, signature: bytes | None, key: Path, where: str) -> None:
    """The same for the bytes of a manifest and its signature, before any file is there.

    Args:
        manifest: the bytes of ``manifest.json``.
        signature: the bytes of ``manifest.json.sig``; None if there are none.
        key: the public key, in a PEM file.
        where: what to call the package in an error.

    Raises:
        As `verify_signature`.
    """
    public = _public_key(key)
    if signature is None:
        raise SignatureError(f"{where} is not signed: there is no {SIGNATURE}")
    _check(hashlib.sha256(manifest).hexdigest(), signature, public, f"{where}: ")


def read_signature(package: Package) -> bytes:
    """The bytes of a package's signature.

    Raises:
        SignatureError: if it has none, or one that is too large.
    """
    try:
        with open_regular(package.path / SIGNATURE) as file:
            data = file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        raise SignatureError(f"{package.path} is not signed: there is no {SIGNATURE}") from None
    if len(data) > MAX_SIGNATURE_BYTES:
        raise SignatureError(
            f"{package.path}: {SIGNATURE} has more than {MAX_SIGNATURE_BYTES} bytes"
        )
    return data


def require_signature_of(package: Package) -> None:
    """Check that a signature, if there is one, is of this revision, whoever made it.

    Raises:
        SignatureError: if it is of another one, or damaged.
    """
    if not (package.path / SIGNATURE).exists():
        return
    where = f"{package.path}: "
    payload, _, _ = _open(read_signature(package), where)
    _require_manifest(payload, package.revision, where)


def _statement(name: str, files: dict[str, str]) -> dict[str, Any]:
    """What is signed: the digests of all files, and a digest of those in their order."""
    ordered = sorted(files, key=PurePosixPath)
    root = hashlib.sha256(b"".join(bytes.fromhex(files[file]) for file in ordered))
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(_IGNORED),
            },
            "resources": [
                {"name": file, "algorithm": "sha256", "digest": files[file]} for file in ordered
            ],
        },
    }


def _encoded(payload: bytes) -> bytes:
    """The bytes that a DSSE signature is made over: its pre-authentication encoding."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _check(revision: str, signature: bytes, key: ec.EllipticCurvePublicKey, where: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    payload, signed, hint = _open(signature, where)
    if hint is not None and hint != _fingerprint(key):
        raise SignatureError(
            f"{where}{SIGNATURE} was made with another key: {hint[:16]}, not "
            f"{_fingerprint(key)[:16]}"
        )
    try:
        key.verify(signed, _encoded(payload), ec.ECDSA(_hash(key.curve)))
    except InvalidSignature:
        raise SignatureError(
            f"{where}{SIGNATURE} was not made with this key, or was changed since"
        ) from None
    _require_manifest(payload, revision, where)


def _open(signature: bytes, where: str) -> tuple[bytes, bytes, str | None]:
    """The payload of a bundle, its signature, and the fingerprint of the key that it names."""
    try:
        bundle = json.loads(signature)
        if bundle["mediaType"] != _BUNDLE:
            raise ValueError(f"it is a {bundle['mediaType']!r}")
        envelope = bundle["dsseEnvelope"]
        if envelope["payloadType"] != _PAYLOAD:
            raise ValueError(f"its payload is a {envelope['payloadType']!r}")
        (only,) = envelope["signatures"]
        material = bundle["verificationMaterial"]
        if "publicKey" not in material:
            raise ValueError("it was not made with a pair of keys")
        hint = material["publicKey"].get("hint")
        if hint is not None and not isinstance(hint, str):
            raise ValueError("the key's hint is no text")
        return _decoded(envelope["payload"]), _decoded(only["sig"]), hint
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SignatureError(f"{where}{SIGNATURE} cannot be read: {_reason(error)}") from None


def _require_manifest(payload: bytes, revision: str, where: str) -> None:
    """The manifest must be what was signed; it stands for all other files."""
    try:
        statement = json.loads(payload)
        if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
            raise ValueError(f"it states {statement['predicateType']!r}")
        predicate = statement["predicate"]
        if predicate["serialization"]["method"] != "files":
            raise ValueError("files were signed in pieces")
        signed = [
            (resource["algorithm"], resource["digest"])
            for resource in predicate["resources"]
            if resource["name"] == MANIFEST
        ]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise SignatureError(f"{where}{SIGNATURE} cannot be read: {_reason(error)}") from None
    if signed != [("sha256", revision)]:
        what = ", ".join(f"{algorithm} {str(digest)[:12]}" for algorithm, digest in signed)
        raise SignatureError(
            f"{where}{SIGNATURE} is of another {MANIFEST} ({what or 'none at all'}), not of "
            f"{revision[:12]}"
        )


def _reason(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is not base64: {error}") from None


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read_key(path)
    try:
        key = load_pem_public_key(data)
    except ValueError:
        raise InvalidInput(f"{path} is not a public key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidInput(f"{path} is not a key of an elliptic curve, such as P-256")
    _hash(key.curve, path)
    return key


def _private_key(path: Path, password: str | None) -> ec.EllipticCurvePrivateKey:
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, secret = _read_key(path), password.encode() if password else None
    try:
        key = load_pem_private_key(data, secret)
    except TypeError as error:
        raise InvalidInput(f"{path}: {error}".rstrip(".")) from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = ", or this is not its password" if secret else ""
        raise InvalidInput(f"{path} is not a private key in PEM form{wrong}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput(f"{path} is not a key of an elliptic curve, such as P-256")
    _hash(key.curve, path)
    return key


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    return key.sign(data, ec.ECDSA(_hash(key.curve)))


def _hash(curve: ec.EllipticCurve, path: Path | None = None) -> hashes.HashAlgorithm:
    """The hash that goes with a curve, as Sigstore pairs them."""
    from cryptography.hazmat.primitives import hashes

    pairs: dict[str, hashes.HashAlgorithm] = {
        "secp256r1": hashes.SHA256(),
        "secp384r1": hashes.SHA384(),
        "secp521r1": hashes.SHA512(),
    }
    if curve.name not in pairs:
        raise InvalidInput(f"{path} is on the curve {curve.name}; expected P-256, P-384 or P-521")
    return pairs[curve.name]


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2**16)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None


def _require_cryptography() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401
    except ImportError as error:
        raise MissingExtra("signatures", "signing", error) from error
