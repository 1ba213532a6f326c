"""Signatures of packages: OpenSSF model signing with a key pair, offline.

``manifest.json.sig`` is a Sigstore bundle. It contains a DSSE envelope with an in-toto statement
that lists the sha256 of ``manifest.json`` and of every file in it, signed with ECDSA. Any tool for
the format can verify it:

    model_signing verify key --public_key key.pub --signature NAME/manifest.json.sig NAME

Signatures made by such a tool can be verified here. Only ``cryptography`` is needed. Create a key
pair with:

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem
    openssl ec -in key.pem -pubout -out key.pub

The card, and the files that git, macOS and ``hf download`` leave in a package's folder, are not
signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from repzoo.errors import InvalidInput, MissingExtra, PackageError, SignatureError
from repzoo.packages.package import ADVISORY, MANIFEST, SIGNATURE, Package
from repzoo.packages.records import read_file

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

#: Limit on the size of a signature, which has a line for each file.
MAX_SIGNATURE_BYTES = 2**20

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
#: Files that verifiers skip: the signature, the card, and files that other tools leave behind.
_IGNORED = (SIGNATURE, *sorted(ADVISORY), ".git", ".gitattributes", ".DS_Store", ".cache")


def sign_package(package: Package, key: Path, password: str | None = None) -> bytes:
    """Sign a verified package. Nothing is written.

    Signing is deterministic (RFC 6979) if OpenSSL supports it: the same package and key then give
    the same bytes, so publishing a package again changes nothing.

    Args:
        package: The package to sign.
        key: A private key in a PEM file, on the curve P-256, P-384 or P-521.
        password: The key's password, if the key is encrypted.

    Returns:
        The content of ``manifest.json.sig``.

    Raises:
        InvalidInput: If the key cannot be used.
        MissingExtra: If ``cryptography`` is not installed.
    """
    private = _private_key(key, password)
    files = {name: e.sha256 for name, e in package.manifest.files.items() if name not in ADVISORY}
    statement = _statement(package.config.name, files | {MANIFEST: package.revision})
    payload = json.dumps(statement, sort_keys=True).encode()
    signature = _sign(private, _encoded(payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    hint = _fingerprint(private.public_key())
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    return json.dumps(bundle).encode()


def is_encrypted(key: Path) -> bool:
    """Whether a private key needs a password.

    Raises:
        InvalidInput: If the file cannot be read.
    """
    return b"ENCRYPTED" in _read_key(key)


def verify_signature(package: Package, key: Path) -> str:
    """Check that a package was signed with a key. `Package.verify` checks the files themselves.

    Args:
        package: The package.
        key: The public key, in a PEM file.

    Returns:
        The key's fingerprint: the sha256 of its PEM form, in hex.

    Raises:
        SignatureError: If the package is not signed, was signed with another key, or the signature
            is not valid.
        InvalidInput: If the key cannot be used.
        MissingExtra: If ``cryptography`` is not installed.
    """
    public = _public_key(key)
    _check(package.revision, read_signature(package), public, f"{package.path}: ")
    return _fingerprint(public)


def check_signature(manifest: bytes, signature: bytes | None, key: Path, where: str) -> None:
    """Check a signature before any file of the package is fetched.

    Args:
        manifest: The bytes of ``manifest.json``.
        signature: The bytes of ``manifest.json.sig``, or None if the package has none.
        key: The public key, in a PEM file.
        where: What to call the package in an error.

    Raises:
        SignatureError, InvalidInput, MissingExtra: As for `verify_signature`.
    """
    public = _public_key(key)
    if signature is None:
        raise SignatureError(f"{where} is not signed: it has no {SIGNATURE}")
    _check(hashlib.sha256(manifest).hexdigest(), signature, public, f"{where}: ")


def read_signature(package: Package) -> bytes:
    """Return the bytes of a package's signature.

    Raises:
        SignatureError: If the package is not signed, or the file is too large or cannot be read.
    """
    try:
        return read_file(package.path / SIGNATURE, MAX_SIGNATURE_BYTES)
    except FileNotFoundError:
        raise SignatureError(f"{package.path} is not signed: it has no {SIGNATURE}") from None
    except PackageError as error:
        raise SignatureError(str(error)) from None


def require_signature_of(package: Package) -> None:
    """Check that the package's signature, if it has one, covers this revision, whatever its key.

    Raises:
        SignatureError: If the signature is damaged or of another revision.
    """
    if not (package.path / SIGNATURE).exists():
        return
    where = f"{package.path}: "
    payload, _, _ = _open(read_signature(package), where)
    _require_manifest(payload, package.revision, where)


def _statement(name: str, files: dict[str, str]) -> dict[str, Any]:
    """Return the statement to sign: the digest of each file, and a digest of all in order."""
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
    """Return the pre-authentication encoding of a payload, which a DSSE signature covers."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _check(revision: str, signature: bytes, key: ec.EllipticCurvePublicKey, where: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    payload, signed, hint = _open(signature, where)
    if hint is not None and hint != _fingerprint(key):
        raise SignatureError(
            f"{where}{SIGNATURE} was made with another key: expected {_fingerprint(key)[:16]}, got "
            f"{hint[:16]}"
        )
    try:
        key.verify(signed, _encoded(payload), ec.ECDSA(_hash(key.curve)))
    except InvalidSignature:
        raise SignatureError(
            f"{where}{SIGNATURE} was not made with this key, or was changed afterwards"
        ) from None
    _require_manifest(payload, revision, where)


def _open(signature: bytes, where: str) -> tuple[bytes, bytes, str | None]:
    """Return a bundle's payload, its signature, and the fingerprint of the key that it names."""
    try:
        bundle = json.loads(signature)
        if bundle["mediaType"] != _BUNDLE:
            raise ValueError(f"its media type is {bundle['mediaType']!r}, expected {_BUNDLE!r}")
        envelope = bundle["dsseEnvelope"]
        if envelope["payloadType"] != _PAYLOAD:
            raise ValueError(f"its payload is {envelope['payloadType']!r}, expected {_PAYLOAD!r}")
        (only,) = envelope["signatures"]
        material = bundle["verificationMaterial"]
        if "publicKey" not in material:
            raise ValueError("it was not made with a key pair")
        hint = material["publicKey"].get("hint")
        if hint is not None and not isinstance(hint, str):
            raise ValueError("its key hint is not a string")
        return _decoded(envelope["payload"]), _decoded(only["sig"]), hint
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SignatureError(f"{where}{SIGNATURE} cannot be read: {_reason(error)}") from None


def _require_manifest(payload: bytes, revision: str, where: str) -> None:
    """Check that the signed manifest is this one. It stands for all other files."""
    try:
        statement = json.loads(payload)
        if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
            raise ValueError(f"its statement is {statement['predicateType']!r}")
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
        found = ", ".join(f"{algorithm} {str(digest)[:12]}" for algorithm, digest in signed)
        raise SignatureError(
            f"{where}{SIGNATURE} covers {found or 'no'} {MANIFEST}; expected {revision[:12]}"
        )


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


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
        raise InvalidInput(f"{path} is not an elliptic-curve key, such as P-256")
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
        wrong = ", or its password is wrong" if secret else ""
        raise InvalidInput(f"{path} is not a private key in PEM form{wrong}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput(f"{path} is not an elliptic-curve key, such as P-256")
    _hash(key.curve, path)
    return key


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    algorithm = _hash(key.curve)
    try:
        return key.sign(data, ec.ECDSA(algorithm, deterministic_signing=True))
    except UnsupportedAlgorithm:  # OpenSSL before 3.2
        return key.sign(data, ec.ECDSA(algorithm))


def _hash(curve: ec.EllipticCurve, path: Path | None = None) -> hashes.HashAlgorithm:
    """Return the hash that Sigstore pairs with a curve."""
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
