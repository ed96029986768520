"""Who may speak with this server: those who know the token, through a name that is this server's, and from no other site's page."""

from __future__ import annotations

import hmac
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from livetalk_core.serve.refusal import Refused


@dataclass(frozen=True, kw_only=True)
class Access:
    """ValueError for a token that cannot be sent in a header."""

    token: str = ""
    """What clients must know; empty: nothing."""
    hosts: tuple[str, ...] = ()
    """Names of this server beside its addresses and localhost."""
    origins: tuple[str, ...] = ()
    """Sites whose pages may connect, as https://name."""

    def __post_init__(self) -> None:
        if not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise ValueError("the token must be printable ASCII without spaces; `openssl rand -hex 16` makes a good one")

    def check(self, request: web.Request) -> None:
        """Refused for a request that is to be turned away."""
        if not self.is_own_name(request.headers.get("Host")):
            raise Refused("host", "this server has another name; start it with --allow-host to give it this one", 421)
        if not self.may_connect(request):
            raise Refused("origin", "pages of other sites may not connect; start with --origin to allow one", 403)
        if not self.knows_token(request):
            raise Refused("token", "the token is missing or wrong; send it as Authorization: Bearer TOKEN, or as ?token=TOKEN", 401)

    def is_own_name(self, host: str | None) -> bool:
        """A page of another site can have its own name lead here (DNS rebinding), but then the browser sends that name.

        An address cannot be led astray, and who sends no Host at all is no browser.
        """
        if host is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name == "localhost" or name.endswith(".localhost") or name in map(str.lower, self.hosts) or is_address(name)

    def may_connect(self, request: web.Request) -> bool:
        """Browsers say which page asks; a page from elsewhere must have been allowed. Other programs say nothing."""
        origin = request.headers.get("Origin")
        return origin is None or origin in self.origins or origin.partition("://")[2] == request.headers.get("Host")

    def knows_token(self, request: web.Request) -> bool:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer":
            given = request.query.get("token", "")
        right = hmac.compare_digest(given.strip().encode(errors="backslashreplace"), self.token.encode())
        return right or not self.token


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS of these PEM files; None without them. ValueError or FileNotFoundError for files that cannot be used."""
    if certificate is None:
        if key is not None:
            raise ValueError("--tls-key needs --tls-cert: the certificate that belongs to the key")
        return None
    for path in filter(None, (certificate, key)):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file; give a PEM file")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        files = f"{certificate} and {key}" if key else str(certificate)
        raise ValueError(f"{files}: not a certificate and its key, unencrypted, in PEM form ({error})") from None
    return context
