"""Celery's serializer `auth`: bodies signed with an RSA key, checked by certificates (wire-format.md 11).

Needs the extra `taskq-asyncio[auth]`. Headers (the task's name, its id, ...) are not signed: see `security_secrets`.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import Certificate, load_pem_x509_certificate

from taskq.errors import ConfigError, UntrustedMessage
from taskq.wire.serializers import Serializer, get_serializer

_SEPARATOR = b"\x00\x01"
#: What a signed body may hold: a signature says who wrote it, not that it may run code.
_INNER = frozenset(("application/json", "application/x-msgpack"))


class KeyFiles(NamedTuple):
    """Our own key and certificate (PEM), and those of all who may send messages: a folder or a pattern."""

    key: str
    certificate: str
    store: str
    password: str | None = None


def serializer_from_files(files: KeyFiles, digest: str, now: Callable[[], float]) -> Serializer:
    """The serializer `auth` with a key and certificates from files; `now` tells the time, in Unix seconds.

    Raises:
        ConfigError: a file cannot be read, or there is no digest of that name.
    """
    try:
        certificates = {}
        for path in _files(Path(files.store)):
            certificate = load_pem_x509_certificate(path.read_bytes())
            certificates[certificate_id(certificate)] = certificate
        signer = certificate_id(load_pem_x509_certificate(Path(files.certificate).read_bytes()))
        key = _private_key(files)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"security_key, security_certificate or security_cert_store: {error}") from error
    return auth_serializer(key, signer, certificates, now, digest)


def _files(store: Path) -> Iterable[Path]:
    """A folder's files, or those of a pattern, as Celery takes it."""
    return store.glob("*") if store.is_dir() else store.parent.glob(store.name)


def certificate_id(certificate: Certificate) -> str:
    """How a message names its signer: the issuer's name and the serial number."""
    return " ".join([*(str(part.value) for part in certificate.issuer), str(certificate.serial_number)])


def auth_serializer(
    key: rsa.RSAPrivateKey,
    signer: str,
    certificates: Mapping[str, Certificate],
    now: Callable[[], float],
    digest: str = "sha256",
) -> Serializer:
    """The serializer that signs as `signer` and reads what the owners of certificates that hold `now` have signed.

    Raises:
        ConfigError: there is no digest of that name.
    """
    kind = getattr(hashes, digest.upper(), None)
    if kind is None:
        raise ConfigError(f"security_digest = {digest!r}: there is none of that name")
    algorithm: hashes.HashAlgorithm = kind()
    scheme = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.MAX_LENGTH)
    inner = get_serializer("json")

    def dumps(value: Any) -> bytes:
        payload = inner.dumps(value)
        signature = key.sign(payload, scheme, algorithm)
        kinds = (inner.content_type.encode(), inner.content_encoding.encode())
        return b64encode(_SEPARATOR.join((b64encode(signer.encode()), b64encode(signature), *kinds, payload)))

    def loads(data: bytes) -> Any:
        name, signature, content_type, _, payload = b64decode(data).split(_SEPARATOR, 4)
        certificate = _valid(certificates, b64decode(name).decode(), now())
        try:
            _public_key(certificate).verify(b64decode(signature), payload, scheme, algorithm)
        except InvalidSignature:
            raise UntrustedMessage("refused: its signature is wrong") from None
        if content_type.decode() not in _INNER:
            raise UntrustedMessage(f"refused: the signed content is {content_type!r}")
        return get_serializer(content_type.decode()).loads(payload)

    return Serializer("auth", "application/data", "utf-8", dumps, loads)


def _valid(certificates: Mapping[str, Certificate], signer: str, now: float) -> Certificate:
    certificate = certificates.get(signer)
    if certificate is None:
        raise UntrustedMessage(f"refused: no certificate of {signer!r} in security_cert_store")
    if certificate.not_valid_before_utc > datetime.fromtimestamp(now, UTC):
        raise UntrustedMessage(f"refused: the certificate of {signer!r} is not valid yet")
    if certificate.not_valid_after_utc < datetime.fromtimestamp(now, UTC):
        raise UntrustedMessage(f"refused: the certificate of {signer!r} has expired")
    return certificate


def _public_key(certificate: Certificate) -> rsa.RSAPublicKey:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise UntrustedMessage("refused: its certificate has no RSA key")
    return key


def _private_key(files: KeyFiles) -> rsa.RSAPrivateKey:
    password = files.password.encode() if files.password else None
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), password)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError("security_key: only RSA keys sign messages")
    return key
