"""X.509 as Tandem uses it: one authority per cluster, a leaf for each of its machines.

A leaf names its machine in a URI, tandem://CLUSTER/ROLE/ID, and again in DNS names, which TLS
checks in place of an address: addresses may change. A leaf also carries the authority's
certificate, so that a newcomer, who knows that one's fingerprint, gets it in a first handshake.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.core.errors import BadConfiguration, NotAuthorized

AUTHORITY_DAYS = 3650
LEAF_DAYS = 30
EARLY = timedelta(hours=1)
"""A certificate is valid from before its making: the clocks of machines differ."""

MOST_REQUEST_BYTES = 4096

PublicKey = ec.EllipticCurvePublicKey

_AUTHORITY = x509.ObjectIdentifier("2.25.63018457402839567213401568824671903415")
"""Of the extension that holds the authority's certificate; below the arc for random numbers
(ITU-T X.667)."""

_URI = re.compile(r"tandem://([0-9a-f]{16})/(coordinator|node)/([a-z0-9-]{1,63})")


class Role(StrEnum):
    """What a machine is in its cluster."""

    COORDINATOR = "coordinator"
    NODE = "node"

    @property
    def server_name(self) -> str:
        """The DNS name in every certificate of this role."""
        return f"{self}.tandem.internal"

    def server_name_of(self, machine: str) -> str:
        """The DNS name in the certificates of one machine alone."""
        return f"{machine}.{self.server_name}"


@dataclass(frozen=True, slots=True)
class Name:
    """Whom a certificate stands for."""

    cluster: str
    """16 hex digits, drawn at random when the authority was made."""
    role: Role
    id: str

    @property
    def uri(self) -> str:
        return f"tandem://{self.cluster}/{self.role}/{self.id}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Raises NotAuthorized when `uri` is no such name."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise NotAuthorized("the certificate names no machine of a cluster")
        return cls(match[1], Role(match[2]), match[3])


def make_key() -> ec.EllipticCurvePrivateKey:
    """A private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as text, without a pass phrase."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def pem(certificate: x509.Certificate) -> str:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def load_key(text: str) -> ec.EllipticCurvePrivateKey:
    """A private key from text; raises BadConfiguration."""
    try:
        key = serialization.load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise BadConfiguration(f"a private key can't be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadConfiguration("a private key is not one of an elliptic curve")
    return key


def load(text: str) -> x509.Certificate:
    """A certificate from text; raises BadConfiguration."""
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except ValueError as error:
        raise BadConfiguration(f"a certificate can't be read: {error}") from error


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def expires(certificate: x509.Certificate) -> float:
    """Unix time at which a certificate ends."""
    return certificate.not_valid_after_utc.timestamp()


def make_authority(cluster: str, key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    """The certificate of a cluster's authority, signed by itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tandem {cluster}")])
    return (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def cluster_of(authority: x509.Certificate) -> str:
    """The cluster that an authority is the one of; raises BadConfiguration."""
    names = authority.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    match = re.fullmatch(r"tandem ([0-9a-f]{16})", str(names[0].value) if names else "")
    if match is None:
        raise BadConfiguration("the certificate is not one of a Tandem cluster's authority")
    return match[1]


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate signing request (DER) that shows the key, and names nothing."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def requested_key(request: bytes) -> PublicKey:
    """The public key of a signing request (DER), whose sender has shown that it has the private
    one. Raises NotAuthorized for anything else, names among it: those are not the sender's to
    choose."""
    if len(request) > MOST_REQUEST_BYTES:
        raise NotAuthorized(f"the certificate request is larger than {MOST_REQUEST_BYTES} bytes")
    try:
        asked = x509.load_der_x509_csr(request)
        valid, key = asked.is_signature_valid, asked.public_key()
        names = len(asked.subject) + len(asked.extensions)
    except (ValueError, TypeError, InvalidSignature, x509.DuplicateExtension) as error:
        raise NotAuthorized("the certificate request can't be read") from error
    if not valid:
        raise NotAuthorized("the certificate request is not signed by its own key")
    if names:
        raise NotAuthorized("the certificate request names something; only the authority does")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise NotAuthorized("the certificate request's key is not one on P-256")
    return key


def issue(
    name: Name,
    public_key: PublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: float,
    days: float = LEAF_DAYS,
) -> x509.Certificate:
    """A leaf for `name`, valid for `days` from `now` (Unix time), and never longer than the
    authority."""
    alternatives = x509.SubjectAlternativeName(
        [
            x509.DNSName(name.role.server_name),
            x509.DNSName(name.role.server_name_of(name.id)),
            x509.UniformResourceIdentifier(name.uri),
        ]
    )
    usages = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    carried = x509.UnrecognizedExtension(
        _AUTHORITY, authority.public_bytes(serialization.Encoding.DER)
    )
    days = min(days, (expires(authority) - now) / 86400)
    return (
        _builder(x509.Name([]), authority.subject, public_key, now, days)
        .add_extension(alternatives, critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(usages, critical=False)
        .add_extension(carried, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def name_of(leaf: x509.Certificate) -> Name:
    """Whom a leaf stands for; raises NotAuthorized when it says nobody."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound as error:
        raise NotAuthorized("the certificate names no machine of a cluster") from error
    uris = found.value.get_values_for_type(x509.UniformResourceIdentifier)
    return Name.parse(uris[0] if len(uris) == 1 else "")


def carried_authority(leaf_der: bytes, expected: bytes) -> x509.Certificate:
    """The authority that an unverified leaf carries, if it has the `expected` fingerprint: then
    it is the one that TLS is to trust. Raises NotAuthorized when it is another, or none."""
    try:
        extensions = x509.load_der_x509_certificate(leaf_der).extensions
        carried = extensions.get_extension_for_oid(_AUTHORITY).value
        der = carried.value if isinstance(carried, x509.UnrecognizedExtension) else b""
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise NotAuthorized("what answers there is no coordinator of Tandem") from error
    if hashlib.sha256(der).digest() != expected:
        raise NotAuthorized("the token is one of another cluster than the server's")
    return x509.load_der_x509_certificate(der)


def check_issued(
    leaf: x509.Certificate, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """Raise NotAuthorized unless `leaf` is for `key`, and of `authority`."""
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise NotAuthorized("the certificate is not one of this cluster's authority") from error
    if leaf.public_key() != key.public_key():
        raise NotAuthorized("the certificate is for another key")
    if name_of(leaf).cluster != cluster_of(authority):
        raise NotAuthorized("the certificate is one for another cluster")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    now: float,
    days: float,
) -> x509.CertificateBuilder:
    moment = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(moment, moment + timedelta(days=days)) - EARLY)
        .not_valid_after(moment + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
