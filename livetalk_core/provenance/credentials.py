"""Signs finished videos with Content Credentials (C2PA), and reads those of any video."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from livetalk_core.provenance.manifest import BY_MACHINE, OURS, PARTLY_BY_MACHINE, Origin, manifest_of

if TYPE_CHECKING:
    import c2pa

    from livetalk_core.provenance.certificate import SigningKey

PIP = "pip install c2pa-python cryptography platformdirs"
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
"""Nothing is fetched from the network."""
IN_MEMORY_MB = 16
"""Larger videos are signed by way of a temporary file, so that memory does not grow with their length."""
UNKNOWN_SIGNER = "signingCredential.untrusted"
ALTERED = ("assertion.bmffHash.mismatch", "assertion.hashedURI.mismatch", "assertion.dataHash.mismatch", "claimSignature.mismatch")
EXPIRED = ("claimSignature.outsideValidity", "signingCredential.expired")
NEEDED = ("claimSignature.validated", "claimSignature.insideValidity")
"""What c2pa must have found besides a matching hash before a video is called valid."""


class CredentialsMissing(ValueError):
    """Content Credentials cannot be had here, and no choice of the user is at fault: a package is missing, or does not work."""


class Credentials:
    """Signs videos with one key. ValueError in one line if a user's key cannot sign, CredentialsMissing if the installation's cannot."""

    def __init__(self, key: SigningKey) -> None:
        self.key = key
        try:
            check_signs(self)
        except (OSError, ValueError) as error:
            if key.own:
                raise CredentialsMissing(str(error)) from error
            raise

    def sign(self, video: Path, signed: Path, origin: Origin, title: str) -> None:
        """Write a copy of an MP4 with its credentials. ValueError or OSError if that cannot be done; the video stays as it is."""
        with video.open("rb") as source, signed.open("w+b") as sink:
            self.sign_stream(source, sink, manifest_of(origin, title))

    def sign_stream(self, source: BinaryIO, sink: BinaryIO, manifest: dict[str, object], mime: str = "video/mp4") -> None:
        import c2pa

        how = OFFLINE | {"core": {"backing_store_memory_threshold_in_mb": IN_MEMORY_MB}, "builder": {"thumbnail": {"enabled": False}}}
        try:
            with c2pa.Context.from_dict(how) as context, self.signer() as signer, c2pa.Builder(manifest, context) as builder:
                builder.sign(signer, mime, source, sink)
        except c2pa.C2paError as error:
            raise ValueError(f"Content Credentials cannot be signed: {told(error)}") from error

    def signer(self) -> c2pa.Signer:
        import c2pa

        pair = {"sign_cert": self.key.certificate, "private_key": self.key.key}
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(alg=self.key.algorithm.encode(), ta_url=None, **pair))


def open_credentials(cert: Path | None = None, key: Path | None = None) -> Credentials:
    """Credentials by the files given, the environment, or the installation's certificate. CredentialsMissing without the packages."""
    try:
        import c2pa  # noqa: F401 (asked before anything is made)

        from livetalk_core.provenance.certificate import find_signing_key
    except (ImportError, OSError) as error:
        raise CredentialsMissing(f"Content Credentials need packages that cannot be loaded here ({error}); {PIP}") from None
    return Credentials(find_signing_key(cert, key))


def check_signs(credentials: Credentials) -> None:
    """Sign one pixel, so that a certificate that cannot sign is noticed before hours of work. ValueError with the reason."""
    from PIL import Image

    source, sink = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (1, 1)).save(source, "PNG")
    source.seek(0)
    manifest = manifest_of(Origin(model=""), "test")
    credentials.sign_stream(source, sink, manifest, "image/png")


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a file's credentials say and whether they hold."""

    state: str
    """valid, altered, invalid, or none."""
    reason: str = ""
    manifest: dict = field(default_factory=dict, repr=False)
    trusted: bool = False
    """Whether the signer is on c2pa's list of trusted ones, or is this installation."""

    @property
    def signer(self) -> str:
        info = self.manifest.get("signature_info", {})
        return info.get("common_name") or info.get("issuer") or "unknown"

    @property
    def generator(self) -> str:
        info = (self.manifest.get("claim_generator_info") or [{}])[0]
        named = " ".join(str(info[name]) for name in ("name", "version") if name in info)
        return named or str(self.manifest.get("claim_generator") or "unknown")

    @cached_property
    def details(self) -> dict:
        """What only this project says; empty in other makers' files."""
        return next(iter(self.assertions(OURS)), {})

    @property
    def by_machine(self) -> bool:
        """Whether a trained model made the video, or a part of it."""
        return bool(self.sources & {BY_MACHINE, PARTLY_BY_MACHINE})

    @property
    def composite(self) -> bool:
        """Whether a trained model made only a part of it."""
        return PARTLY_BY_MACHINE in self.sources

    @property
    def sources(self) -> set[str]:
        """IPTC's words for what the video comes from."""
        actions = [action for data in self.assertions("c2pa.actions") for action in data.get("actions", [])]
        return {str(action.get("digitalSourceType")) for action in actions}

    def assertions(self, label: str) -> list[dict]:
        """The data of the assertions whose label begins with this."""
        found = [each for each in self.manifest.get("assertions", []) if str(each.get("label", "")).startswith(label)]
        return [each["data"] for each in found if isinstance(each.get("data"), dict)]


def read_credentials(video: Path, trusted: bytes = b"") -> Read:
    """A file's credentials, checked against the file. `trusted`: a certificate, PEM, that counts as known besides c2pa's list.

    CredentialsMissing without the package. Nothing is called valid unless the signature and the file's hash were found right.
    """
    try:
        import c2pa
    except (ImportError, OSError) as error:
        raise CredentialsMissing(f"Content Credentials need a package that cannot be loaded here ({error}); {PIP}") from None
    mime = mime_of(video)
    if mime is None:
        return Read(state="none", reason="this kind of file holds none; MP4, MOV and AVI can")
    how = OFFLINE | ({"trust": {"user_anchors": trusted.decode()}} if trusted else {})
    try:
        with c2pa.Context.from_dict(how) as context, video.open("rb") as file, c2pa.Reader(mime, file, context=context) as reader:
            found = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return Read(state="none", reason="there are none in the file")
    except c2pa.C2paError as error:
        return Read(state="altered", reason=f"the credentials or the file are damaged: {told(error)}")
    return judge(found)


def judge(found: dict) -> Read:
    """c2pa's findings in one word. A signer whom nobody has vouched for is no fault of the file."""
    manifest = found.get("manifests", {}).get(found.get("active_manifest"), {})
    results = found.get("validation_results", {}).get("activeManifest", {})
    failed = {each.get("code", "") for each in results.get("failure", [])}
    passed = {each.get("code", "") for each in results.get("success", [])}
    state, trusted = found.get("validation_state"), UNKNOWN_SIGNER not in failed
    failed.discard(UNKNOWN_SIGNER)
    if failed & set(ALTERED):
        return Read(state="altered", reason="the file is not as it was signed: changed or cut since", manifest=manifest)
    if failed & set(EXPIRED):
        return Read(state="invalid", reason="the certificate has expired, or was not valid yet when it signed", manifest=manifest)
    bound = any(code.startswith("assertion.") and code.endswith("Hash.match") for code in passed)
    if failed or state not in ("Valid", "Trusted") or not bound or not passed.issuperset(NEEDED):
        return Read(state="invalid", reason=", ".join(sorted(failed)) or "no signature over the file was found right", manifest=manifest)
    return Read(state="valid", reason="the file is as it was signed", manifest=manifest, trusted=trusted)


def mime_of(video: Path) -> str | None:
    """By the first bytes; None for files in which c2pa finds no credentials."""
    with suppress(OSError), video.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
            return "video/mp4"
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return "video/avi"
    return None


def told(error: Exception) -> str:
    """c2pa's message without the name of its kind, in one line."""
    return " ".join(str(error).split(": ", 1)[-1].split()) or type(error).__name__
