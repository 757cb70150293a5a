from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cluster.core.errors import BadConfiguration, NotAuthorized
from cluster.trust import certificate
from cluster.trust.certificate import Name, Role

CLUSTER = "0123456789abcdef"
NAME = Name(CLUSTER, Role.NODE, "studio-1")
NOW = time.time()


@pytest.fixture(scope="module")
def keeper() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = certificate.make_key()
    return key, certificate.make_authority(CLUSTER, key, NOW)


Keeper = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    subject: str = "",
    extension: x509.ExtensionType | None = None,
) -> bytes:
    names = [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)] if subject else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_a_leaf_names_its_machine_and_its_role(keeper: Keeper) -> None:
    key, authority = keeper
    own = certificate.make_key()
    leaf = certificate.issue(NAME, own.public_key(), authority, key, NOW)
    assert certificate.name_of(leaf) == NAME
    assert certificate.cluster_of(authority) == CLUSTER
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "node.tandem.internal", "studio-1.node.tandem.internal",
    ]  # fmt: skip
    assert certificate.expires(leaf) == pytest.approx(NOW + 30 * 86400, abs=1)
    assert certificate.expires(authority) == pytest.approx(NOW + 3650 * 86400, abs=1)
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and not basic.value.ca
    certificate.check_issued(leaf, authority, own)


def test_a_leaf_ends_with_its_authority(keeper: Keeper) -> None:
    key, authority = keeper
    late = certificate.expires(authority) - 86400
    leaf = certificate.issue(NAME, certificate.make_key().public_key(), authority, key, late)
    assert certificate.expires(leaf) == certificate.expires(authority)


def test_of_a_request_only_the_key_counts() -> None:
    key = certificate.make_key()
    assert certificate.requested_key(certificate.make_request(key)) == key.public_key()


@pytest.mark.parametrize(
    "extension",
    [
        x509.SubjectAlternativeName([x509.DNSName("coordinator.tandem.internal")]),
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(NAME.uri)]),
        x509.BasicConstraints(ca=True, path_length=None),
    ],
)
def test_a_request_that_names_something_is_refused(extension: x509.ExtensionType) -> None:
    with pytest.raises(NotAuthorized, match="names something"):
        certificate.requested_key(request(certificate.make_key(), extension=extension))


def test_a_request_with_a_subject_is_refused() -> None:
    with pytest.raises(NotAuthorized, match="names something"):
        certificate.requested_key(request(certificate.make_key(), subject="coordinator"))


def test_requests_of_no_use() -> None:
    good = certificate.make_request(certificate.make_key())
    forged = good[:-1] + bytes([good[-1] ^ 1])
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    for bad, why in (
        (b"", "can't be read"),
        (b"\x30\x03garbage", "can't be read"),
        (b"x" * 5000, "larger than 4096"),
        (forged, "not signed|can't be read"),
        (request(small), "not one on P-256"),
        (request(ec.generate_private_key(ec.SECP384R1())), "not one on P-256"),
    ):
        with pytest.raises(NotAuthorized, match=why):
            certificate.requested_key(bad)


def test_what_is_not_issued_for_us(keeper: Keeper) -> None:
    key, authority = keeper
    own, other_key = certificate.make_key(), certificate.make_key()
    other = certificate.make_authority(CLUSTER, other_key, NOW)
    leaf = certificate.issue(NAME, own.public_key(), authority, key, NOW)
    with pytest.raises(NotAuthorized, match="not one of this cluster's authority"):
        certificate.check_issued(leaf, other, own)
    with pytest.raises(NotAuthorized, match="for another key"):
        certificate.check_issued(leaf, authority, other_key)
    stranger = Name("f" * 16, Role.NODE, "a")
    leaf = certificate.issue(stranger, own.public_key(), authority, key, NOW)
    with pytest.raises(NotAuthorized, match="another cluster"):
        certificate.check_issued(leaf, authority, own)


def test_a_newcomer_finds_the_authority_that_it_was_told_of(keeper: Keeper) -> None:
    key, authority = keeper
    leaf = certificate.issue(NAME, certificate.make_key().public_key(), authority, key, NOW)
    shown = leaf.public_bytes(serialization.Encoding.DER)
    expected = certificate.fingerprint(authority)
    assert certificate.carried_authority(shown, expected) == authority
    with pytest.raises(NotAuthorized, match="another cluster"):
        certificate.carried_authority(shown, bytes(32))
    plain = authority.public_bytes(serialization.Encoding.DER)
    for nothing in (plain, b"", b"\x30\x82garbage"):
        with pytest.raises(NotAuthorized, match="no coordinator of Tandem"):
            certificate.carried_authority(nothing, expected)


@pytest.mark.parametrize(
    "uri",
    ["", "tandem://x/node/a", f"tandem://{CLUSTER}/boss/a", f"tandem://{CLUSTER}/node/",
     f"tandem://{CLUSTER}/node/A", f"tandem://{CLUSTER}/node/a/b", f"https://{CLUSTER}/node/a",
     f"tandem://{CLUSTER}/node/a\n", f"tandem://{CLUSTER}/node/a.coordinator"],
)  # fmt: skip
def test_what_names_nobody(uri: str) -> None:
    with pytest.raises(NotAuthorized, match="names no machine"):
        Name.parse(uri)


def test_names_there_and_back() -> None:
    assert Name.parse(NAME.uri) == NAME


def test_text_that_is_no_key_or_certificate() -> None:
    with pytest.raises(BadConfiguration):
        certificate.load_key("nothing")
    with pytest.raises(BadConfiguration):
        certificate.load("nothing")
