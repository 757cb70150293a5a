"""The certificate of an https server."""

from __future__ import annotations

import ssl
from pathlib import Path

from cluster.core.errors import BadConfiguration


def load_tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What a server shows its clients: a chain of certificates and its private key, in PEM, the
    key in the same file where `key` is None. None without a certificate.

    Raises BadConfiguration when a file is missing or unreadable, or the two don't match.
    """
    if cert is None:
        if key is not None:
            raise BadConfiguration("--tls-key needs a certificate: give --tls-cert")
        return None
    for path in filter(None, (cert, key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise BadConfiguration(f"can't read {path}: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"the private key in {key or cert} is not that of the certificate in {cert}"
        else:
            message = (
                f"can't use the certificate {cert} with the key {key or cert}: they must be PEM "
                f"files ({error.reason or error})"
            )
        raise BadConfiguration(message) from error
    return context


def _no_password() -> str:
    raise BadConfiguration("the private key has a pass phrase: give one without (--tls-key)")
