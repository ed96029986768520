"""Which certificate signs a video: the user's own, or one that is made once per installation and signs itself."""

from __future__ import annotations

import datetime
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from platformdirs import user_data_path

CERT_VARIABLE, KEY_VARIABLE = "LIVETALK_SIGN_CERT", "LIVETALK_SIGN_KEY"
OWN_NAME = "LiveTalk, self-signed"
"""The certificate's name begins with it; what follows is random and says nothing of the machine or its user."""
OWN_YEARS = 10
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""C2PA's names of the signature algorithms, by the key's curve."""


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A certificate, or a chain of them with the signer's first, and its private key. Both are PEM."""

    certificate: bytes
    key: bytes
    algorithm: str
    own: bool = False
    """Whether the certificate was made here and signs itself."""
    note: str = ""
    """A sentence for the user."""


def find_signing_key(cert: Path | None = None, key: Path | None = None) -> SigningKey:
    """The files given, else those that the environment names, else the installation's own pair.

    ValueError or FileNotFoundError, in one line, for files that cannot sign.
    """
    cert, key = cert or named_by(CERT_VARIABLE), key or named_by(KEY_VARIABLE)
    if cert is None and key is None:
        return own_signing_key(own_file())
    if cert is None or key is None:
        given, other = ("certificate", "--sign-key") if key is None else ("key", "--sign-cert")
        raise ValueError(f"only the {given} {cert or key} is given to sign with; give {other} too, or leave both out")
    return read_signing_key(cert, key)


def named_by(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def read_signing_key(cert: Path, key: Path) -> SigningKey:
    """A user's certificate and key. ValueError or FileNotFoundError for unreadable, unmatched or expired ones."""
    cert_pem, key_pem = read_file(cert, "certificate"), read_file(key, "key")
    try:
        signer = x509.load_pem_x509_certificates(cert_pem)[0]
    except ValueError:
        raise ValueError(f"certificate {cert}: is no PEM certificate; give one that begins with -----BEGIN CERTIFICATE-----") from None
    private = load_key(key, key_pem)
    if public_bytes(signer.public_key()) != public_bytes(private.public_key()):
        raise ValueError(f"key {key}: does not belong to the certificate {cert}; give the key that the certificate was made for")
    check_dates(cert, signer)
    return SigningKey(certificate=cert_pem, key=key_pem, algorithm=algorithm_of(key, private))


def read_file(path: Path, kind: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{kind} {path}: there is no such file; check the path, seen from {Path.cwd()}")
    return path.read_bytes()


def load_key(path: Path, pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError(f"key {path}: is encrypted; decrypt it first: openssl pkey -in {path} -out FILE") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"key {path}: is no PEM private key; give one that begins with -----BEGIN PRIVATE KEY-----") from None


def algorithm_of(path: Path, key: PrivateKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise ValueError(f"key {path}: is of a kind that C2PA does not allow; give EC (P-256, P-384, P-521), Ed25519, or RSA of 2048 bits")


def check_dates(path: Path, cert: x509.Certificate) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    if now > cert.not_valid_after_utc:
        raise ValueError(f"certificate {path}: expired on {cert.not_valid_after_utc:%Y-%m-%d}; give a renewed one, or leave it out")
    if now < cert.not_valid_before_utc:
        raise ValueError(f"certificate {path}: is valid from {cert.not_valid_before_utc:%Y-%m-%d} on; check this machine's clock")


def public_bytes(key) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def own_file() -> Path:
    """The installation's certificate and key, in the user's data folder."""
    return user_data_path("livetalk", appauthor=False) / "signing.pem"


def own_signing_key(file: Path) -> SigningKey:
    """The installation's own pair, made now if it is not there, is broken or has expired. Where nothing can be kept, one for this run."""
    with suppress(OSError, ValueError):
        return read_own(file)
    pem = make_pair()
    try:
        keep(file, pem)
        return read_own(file)
    except OSError as error:
        note = f"{file} cannot be written ({error.strerror}), so this run signs its Content Credentials with a certificate of its own"
        return parse_own(pem, note)


def read_own(file: Path) -> SigningKey:
    found = parse_own(file.read_bytes())
    cert = x509.load_pem_x509_certificate(found.certificate)
    private = load_key(file, found.key)
    check_dates(file, cert)
    if public_bytes(cert.public_key()) != public_bytes(private.public_key()):
        raise ValueError(f"{file}: the key does not belong to the certificate")
    return found


def parse_own(pem: bytes, note: str = "") -> SigningKey:
    end = pem.find(b"-----BEGIN PRIVATE KEY-----")
    if end < 0:
        raise ValueError("there is no private key in it")
    return SigningKey(certificate=pem[:end], key=pem[end:], algorithm="es256", own=True, note=note)


def keep(file: Path, pem: bytes) -> None:
    """Write the pair for this user's eyes only, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR), "wb") as sink:
        sink.write(pem)
    os.replace(fresh, file)


def make_pair() -> bytes:
    """A new certificate that signs itself, and its key: P-256, as C2PA's certificate profile asks, without basic constraints of a CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = {NameOID.ORGANIZATION_NAME: "LiveTalk", NameOID.COMMON_NAME: f"{OWN_NAME} {secrets.token_hex(4)}"}
    name = x509.Name([x509.NameAttribute(kind, value) for kind, value in names.items()])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + OWN_YEARS * 365 * day)
    for extension, critical in extensions_of(key.public_key()):
        builder = builder.add_extension(extension, critical=critical)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private


def extensions_of(key: ec.EllipticCurvePublicKey) -> list[tuple[x509.ExtensionType, bool]]:
    """Each extension and whether it is critical: a certificate that may sign documents and no other certificate."""
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    unused = dict.fromkeys((*names, "encipher_only", "decipher_only"), False)
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.KeyUsage(digital_signature=True, **unused), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key), False),
    ]
