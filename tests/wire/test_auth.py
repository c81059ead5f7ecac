"""Celery's serializer `auth`: its recorded message, and both ways with Celery itself."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.security.certificate import Certificate as CeleryCertificate
from celery.security.certificate import FSCertStore
from celery.security.key import PrivateKey
from celery.security.serialization import SecureSerializer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from taskq import TaskQ
from taskq.errors import ConfigError, DecodeError, UntrustedMessage
from taskq.wire.auth import auth_serializer, certificate_id
from taskq.wire.envelope import loads
from taskq.wire.serializers import Serializer, get_serializer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "auth_signed.json").read_text())["data"]
VALUE: Any = [[1, "ä\u0000\u0001"], {"k": None}, {}]


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certified(key: rsa.RSAPrivateKey, days: int = 1) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "taskq test")])
    end = datetime.now(UTC) + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(77)
        .not_valid_before(end - timedelta(days=30))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )


def serializer_of(key: rsa.RSAPrivateKey, *certificates: x509.Certificate) -> Serializer:
    known = {certificate_id(certificate): certificate for certificate in certificates}
    return auth_serializer(key, "taskq test 77", known, time.time)


@pytest.fixture
def files(key: rsa.RSAPrivateKey, tmp_path: Path) -> Path:
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    (tmp_path / "own.crt").write_bytes(certified(key).public_bytes(pem))
    return tmp_path


def test_the_recorded_message_is_verified(key: rsa.RSAPrivateKey) -> None:
    certificate = x509.load_pem_x509_certificate(GOLDEN["certificate_pem"].encode())
    message = loads(GOLDEN["raw"].encode())
    assert message.content_type == "application/data"
    assert certificate_id(certificate) == GOLDEN["signer_decoded"]
    value = serializer_of(key, certificate).loads(message.body)
    assert value == json.loads(GOLDEN["fields_after_second_base64_split_on_0001"][4])


def test_round_trip_and_refusals(key: rsa.RSAPrivateKey) -> None:
    own = serializer_of(key, certified(key))
    data = own.dumps(VALUE)
    assert own.loads(data) == VALUE
    with pytest.raises(UntrustedMessage, match="no certificate"):
        serializer_of(key).loads(data)
    with pytest.raises(UntrustedMessage, match="expired"):
        serializer_of(key, certified(key, days=-1)).loads(data)
    with pytest.raises(UntrustedMessage, match="not valid yet"):
        serializer_of(key, certified(key, days=31)).loads(data)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(UntrustedMessage, match="signature is wrong"):
        own.loads(serializer_of(stranger).dumps(VALUE))


def test_both_ways_with_celery(key: rsa.RSAPrivateKey, files: Path) -> None:
    text = (files / "own.crt").read_text()
    theirs = SecureSerializer(
        key=PrivateKey((files / "key.pem").read_text()),
        cert=CeleryCertificate(text),
        cert_store=FSCertStore(str(files / "*.crt")),
        digest="sha256",
        serializer="json",
    )
    ours = serializer_of(key, certified(key))
    assert theirs.deserialize(ours.dumps(VALUE)) == VALUE
    assert ours.loads(theirs.serialize(VALUE).encode()) == VALUE


def test_setup_from_settings(files: Path) -> None:
    app = TaskQ("signed", broker="memory://signed")
    with pytest.raises(ConfigError, match="task_serializer"):
        app.setup_security()
    app.conf.update(task_serializer="auth", accept_content=["auth"])
    with pytest.raises(ConfigError, match="security_key"):
        app.setup_security()
    app.conf.update(
        security_key=str(files / "key.pem"),
        security_certificate=str(files / "own.crt"),
        security_cert_store=str(files / "*.crt"),
    )
    app.setup_security()
    message = app.encoded(app.signature("proj.add", (2, 2)), None, "")
    assert message.content_type == "application/data"
    app.conf.security_key = str(files / "none.pem")
    with pytest.raises(ConfigError, match=r"none\.pem"):
        app.setup_security()


@pytest.mark.parametrize("data", [b"", b"AAAA", b"\xff", b"Zm9v" * 50])
def test_garbage_is_a_decode_error(key: rsa.RSAPrivateKey, data: bytes, files: Path) -> None:
    test_setup_from_settings(files)
    with pytest.raises(DecodeError):
        get_serializer("auth").loads(data)
