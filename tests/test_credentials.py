"""Content Credentials: signed, read, copied, altered, cut; certificates that can sign and that cannot."""

import builtins
import datetime
import os
import random
import shutil
import stat
import struct
from collections import Counter
from pathlib import Path

import av
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from livetalk_core.media.video import VideoWriter, probe_video
from livetalk_core.provenance.certificate import extensions_of, find_signing_key, keep, make_pair, own_file, own_signing_key
from livetalk_core.provenance.credentials import CredentialsMissing, judge, open_credentials, read_credentials
from livetalk_core.provenance.manifest import BY_MACHINE, Origin, hash_of, manifest_of
from livetalk_core.provenance.marking import MarkOptions, open_marking, options_from_environment

ORIGIN = Origin(model="tiny", picture="ab" * 32, sound=("cd" * 32,), prompt="A person is talking.")
NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def write_video(path: Path, seal=None, frames: int = 3) -> Path:
    with VideoWriter(path, width=64, height=64, seal=seal) as writer:
        writer.write(torch.full((frames, 64, 64, 3), 90, dtype=torch.uint8))
    return path


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("signed") / "signed.mp4"
    return write_video(path, open_marking(MarkOptions()).seal(ORIGIN, path.name), 40)


def write_pair(folder: Path, key=None, days: tuple[int, int] = (-1, 30), password: bytes | None = None) -> tuple[Path, Path]:
    """A certificate of the user's and its key, valid from and until so many days from now."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, "A studio"), x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Studio")]
    )
    builder = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=7)
    builder = builder.not_valid_before(NOW + days[0] * DAY).not_valid_after(NOW + days[1] * DAY)
    for extension, critical in extensions_of(key.public_key()):
        builder = builder.add_extension(extension, critical)
    cert = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(cert.public_bytes(PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(PEM, PKCS8, locked))
    return folder / "cert.pem", folder / "key.pem"


def boxes(data: bytes) -> dict[str, tuple[int, int]]:
    """Where each box of a file lies."""
    at, found = 0, {}
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        found[name.decode()] = (at, at + size)
        at += size
    return found


def test_a_video_of_which_the_model_made_a_part_says_so():
    def source(composite: bool) -> str:
        actions = manifest_of(Origin(model="tiny", composite=composite), "a.mp4")["assertions"][0]["data"]["actions"]
        return actions[0]["digitalSourceType"].rsplit("/")[-1]

    assert source(True) == "compositeWithTrainedAlgorithmicMedia" and source(False) == "trainedAlgorithmicMedia"


def test_a_signed_video_is_valid_and_says_what_it_was_made_with(signed):
    read = read_credentials(signed)
    assert read.state == "valid" and read.by_machine and not read.trusted
    assert read.signer.startswith("LiveTalk, self-signed ") and read.generator.startswith("LiveTalk ")
    assert read.details["picture"] == "ab" * 32 and read.details["sound"] == ["cd" * 32] and read.details["model"] == "tiny"
    assert "prompt" not in read.details and "watermark" not in read.details
    assert abs(datetime.datetime.fromisoformat(read.details["time"].replace("Z", "+00:00")) - NOW) < DAY
    assert probe_video(signed).frames == 40


def test_it_is_valid_by_c2pas_own_reader_and_after_a_copy(signed, tmp_path):
    c2pa = pytest.importorskip("c2pa")
    copy = Path(shutil.copy(signed, tmp_path / "copy.mp4"))
    for path in (signed, copy):
        with c2pa.Reader(path) as reader:
            assert reader.get_validation_state() == "Valid"
            assert [each["code"] for each in reader.get_validation_results()["activeManifest"]["failure"]] == [
                "signingCredential.untrusted"
            ]


def test_the_installations_certificate_is_known_to_itself_only(signed):
    own = find_signing_key()
    assert read_credentials(signed, own.certificate).trusted
    assert not read_credentials(signed, own_signing_key(Path("/proc/nowhere/signing.pem")).certificate).trusted


def test_one_flipped_byte_of_picture_sound_or_index_is_noticed(signed, tmp_path):
    data = signed.read_bytes()
    draw, places = random.Random(0), boxes(data)
    assert list(places) == ["ftyp", "uuid", "moov", "free", "mdat"]
    for name in ("moov", "mdat"):
        first, end = places[name]
        for at in [first + 8, end - 1, *(draw.randrange(first + 8, end) for _ in range(20))]:
            altered = bytearray(data)
            altered[at] ^= 1 << draw.randrange(8)
            (tmp_path / "altered.mp4").write_bytes(altered)
            assert read_credentials(tmp_path / "altered.mp4").state == "altered", (name, at - first)


def test_of_200_flipped_bits_anywhere_in_the_file_none_changes_what_is_called_valid(signed, tmp_path):
    """C2PA leaves out the file-type box, empty boxes, padding, and the names of the boxes in the credentials."""
    data, read = signed.read_bytes(), read_credentials(signed)
    draw, places, counts = random.Random(1), boxes(data), Counter()
    first, end = places["uuid"]
    for at in [*(draw.randrange(len(data)) for _ in range(200)), *range(first, end, 9)]:
        altered = bytearray(data)
        altered[at] ^= 1 << draw.randrange(8)
        (tmp_path / "altered.mp4").write_bytes(altered)
        found = read_credentials(tmp_path / "altered.mp4")
        box = next(name for name, (start, stop) in places.items() if start <= at < stop)
        counts[box, found.state] += 1
        assert found.state != "valid" or (box in ("ftyp", "free", "uuid") and found.manifest == read.manifest), (box, at)
        assert found.state == "altered" or box not in ("moov", "mdat"), (box, at)
    assert {"altered", "valid"} <= {state for box, state in counts if box == "uuid"} and counts["mdat", "altered"] > 5


@pytest.mark.parametrize("left", [0.999, 0.7, 0.3])
def test_a_cut_file_is_not_valid(signed, tmp_path, left):
    data = signed.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(left * len(data))])
    assert read_credentials(tmp_path / "cut.mp4").state == "altered"


def test_a_video_that_is_encoded_or_copied_by_another_program_has_none(signed, tmp_path):
    with av.open(str(signed)) as source, av.open(str(tmp_path / "other.mp4"), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    assert read_credentials(tmp_path / "other.mp4").state == "none"
    assert read_credentials(write_video(tmp_path / "plain.mp4")).state == "none"


def test_other_kinds_of_files_hold_none(tmp_path):
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3" + bytes(40))
    assert read_credentials(tmp_path / "a.mkv").state == "none" and read_credentials(tmp_path / "missing.mp4").state == "none"


def test_a_users_certificate_signs(tmp_path):
    cert, key = write_pair(tmp_path)
    path = tmp_path / "a.mp4"
    write_video(path, open_marking(MarkOptions(sign_cert=cert, sign_key=key, sign_prompt=True)).seal(ORIGIN, "a.mp4"))
    read = read_credentials(path)
    assert (read.state, read.signer, read.details["prompt"]) == ("valid", "A studio", ORIGIN.prompt)


def test_a_video_of_another_maker_is_read(tmp_path):
    credentials = open_credentials(*write_pair(tmp_path))
    manifest = {"claim_generator_info": [{"name": "Another camera", "version": "3"}], "title": "a.mp4", "assertions": []}
    taken = {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"}
    manifest["assertions"].append({"label": "c2pa.actions.v2", "data": {"actions": [taken]}})
    with write_video(tmp_path / "a.mp4").open("rb") as source, (tmp_path / "b.mp4").open("w+b") as sink:
        credentials.sign_stream(source, sink, manifest)
    read = read_credentials(tmp_path / "b.mp4", find_signing_key().certificate)
    assert (read.state, read.signer, read.generator) == ("valid", "A studio", "Another camera 3")
    assert not read.trusted and not read.by_machine and read.details == {}


def test_the_environment_names_the_certificate(tmp_path, monkeypatch):
    cert, key = write_pair(tmp_path)
    monkeypatch.setenv("LIVETALK_SIGN_CERT", str(cert))
    with pytest.raises(ValueError, match="only the certificate .*cert.pem is given to sign with; give --sign-key too"):
        find_signing_key()
    monkeypatch.setenv("LIVETALK_SIGN_KEY", str(key))
    assert find_signing_key().certificate == cert.read_bytes() and not find_signing_key().own


@pytest.mark.parametrize(
    "key, algorithm",
    [
        (ec.generate_private_key(ec.SECP384R1()), "es384"),
        (ec.generate_private_key(ec.SECP521R1()), "es512"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (rsa.generate_private_key(65537, 2048), "ps256"),
    ],
)
def test_every_kind_of_key_that_c2pa_knows_signs(tmp_path, key, algorithm):
    cert, path = write_pair(tmp_path, key)
    credentials = open_credentials(cert, path)
    assert credentials.key.algorithm == algorithm
    video = write_video(tmp_path / "a.mp4", lambda one, other: credentials.sign(one, other, ORIGIN, "a.mp4"))
    assert read_credentials(video).state == "valid"


def test_certificates_that_cannot_sign_are_told_in_one_line_before_any_work(tmp_path):
    cert, key = write_pair(tmp_path)
    (tmp_path / "other").mkdir()
    other_cert, other_key = write_pair(tmp_path / "other")
    junk = tmp_path / "junk.pem"
    junk.write_text("no PEM")

    def told(text, cert=cert, key=key):
        with pytest.raises((ValueError, FileNotFoundError), match=text) as caught:
            open_marking(MarkOptions(sign_cert=cert, sign_key=key))
        assert "\n" not in str(caught.value)

    told("key .*key.pem: does not belong to the certificate .*cert.pem", key=other_key)
    told("certificate .*junk.pem: is no PEM certificate", cert=junk)
    told("key .*junk.pem: is no PEM private key", key=junk)
    told("certificate .*nowhere: there is no such file", cert=tmp_path / "nowhere")
    told("only the certificate .* give --sign-key too", key=None)
    told("only the key .* give --sign-cert too", cert=None)
    told(r"certificate .*cert.pem: expired on \d{4}-", *write_pair(tmp_path / "other", days=(-30, -2)))
    told(r"certificate .*cert.pem: is valid from \d{4}-", *write_pair(tmp_path / "other", days=(2, 30)))
    told("key .*key.pem: is encrypted; decrypt it first: openssl pkey", *write_pair(tmp_path / "other", password=b"secret"))
    told("is of a kind that C2PA does not allow", *write_pair(tmp_path / "other", ec.generate_private_key(ec.SECP256K1())))


def test_a_certificate_for_something_else_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "extensions_of", lambda key: [(x509.BasicConstraints(ca=True, path_length=None), True)])
    cert, key = write_pair(tmp_path)
    with pytest.raises(ValueError, match="Content Credentials cannot be signed: .*certificate"):
        open_credentials(cert, key)


def test_the_installations_certificate_is_made_once_and_for_its_user_alone(tmp_path):
    file = tmp_path / "data" / "livetalk" / "signing.pem"
    first = own_signing_key(file)
    assert first.own and not first.note and own_signing_key(file) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and [path.name for path in file.parent.iterdir()] == ["signing.pem"]
    cert = x509.load_pem_x509_certificate(first.certificate)
    assert cert.not_valid_after_utc - NOW > 9 * 365 * DAY
    assert own_file().name == "signing.pem" and os.environ["XDG_DATA_HOME"] in str(own_file())


@pytest.mark.parametrize("broken", [b"", b"junk", make_pair()[:300], make_pair().replace(b"END CERTIFICATE", b"END")])
def test_a_broken_certificate_is_made_anew(tmp_path, broken):
    file = tmp_path / "signing.pem"
    keep(file, broken)
    assert own_signing_key(file) == own_signing_key(file) and file.read_bytes() != broken


def test_where_nothing_can_be_kept_a_run_signs_by_itself_and_says_so(tmp_path):
    (tmp_path / "file").touch()
    first, other = (own_signing_key(tmp_path / "file" / "signing.pem") for _ in range(2))
    assert "signing.pem cannot be written" in first.note and first.key != other.key
    assert read_credentials(write_video(tmp_path / "a.mp4", seal_by(first))).state == "valid"


def seal_by(key):
    from livetalk_core.provenance.credentials import Credentials

    return lambda one, other: Credentials(key).sign(one, other, ORIGIN, "a.mp4")


def test_without_the_packages_one_line_says_so_and_the_video_is_made(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest):
        if name == "c2pa":
            raise ImportError("No module named 'c2pa'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    marking = open_marking(MarkOptions())
    assert marking.seal(ORIGIN, "a.mp4") is None
    assert "no Content Credentials" in marking.note and "pip install c2pa-python" in marking.note
    with pytest.raises(CredentialsMissing, match="pip install"):
        read_credentials(tmp_path / "a.mp4")


def test_an_installation_whose_own_certificate_does_not_sign_makes_videos_without(monkeypatch, tmp_path):
    def fail(credentials) -> None:
        raise ValueError("Content Credentials cannot be signed: something new")

    monkeypatch.setattr("livetalk_core.provenance.credentials.check_signs", fail)
    marking = open_marking(MarkOptions())
    assert marking.credentials is None and "no Content Credentials" in marking.note and "something new" in marking.note
    cert, key = write_pair(tmp_path)
    with pytest.raises(ValueError, match="something new"):
        open_marking(MarkOptions(sign_cert=cert, sign_key=key))


def test_turned_off_is_said(monkeypatch):
    marking = open_marking(MarkOptions(credentials=False))
    assert marking.seal(ORIGIN, "a.mp4") is None and "turned off" in marking.note
    monkeypatch.setenv("LIVETALK_CREDENTIALS", "off")
    monkeypatch.setenv("LIVETALK_WATERMARK", "1")
    assert options_from_environment() == MarkOptions(credentials=False, watermark=True)
    monkeypatch.setenv("LIVETALK_WATERMARK", "perhaps")
    with pytest.raises(ValueError, match="LIVETALK_WATERMARK=perhaps must be on or off"):
        options_from_environment()


def test_what_cannot_be_sealed_is_kept_and_told(tmp_path):
    def fail(video: Path, sealed: Path) -> None:
        sealed.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with VideoWriter(tmp_path / "a.mp4", width=64, height=64, seal=fail) as writer:
        writer.write(torch.zeros(3, 64, 64, 3, dtype=torch.uint8))
    assert "No space left" in writer.unsealed and probe_video(tmp_path / "a.mp4").frames == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_interrupted_seal_loses_no_video(tmp_path):
    def stop(video: Path, sealed: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", width=64, height=64, seal=stop) as writer:
        writer.write(torch.zeros(3, 64, 64, 3, dtype=torch.uint8))
    assert probe_video(tmp_path / "a.mp4").frames == 3


def test_nothing_is_called_valid_that_c2pa_did_not_prove():
    good = {
        "active_manifest": "m",
        "manifests": {"m": {"signature_info": {"common_name": "A studio"}}},
        "validation_state": "Valid",
        "validation_results": {
            "activeManifest": {
                "success": [{"code": f"claimSignature.{code}"} for code in ("validated", "insideValidity")]
                + [{"code": "assertion.bmffHash.match"}],
                "failure": [{"code": "signingCredential.untrusted"}],
            }
        },
    }
    assert judge(good).state == "valid"
    found = good["validation_results"]["activeManifest"]
    for index in range(3):
        success = [code for k, code in enumerate(found["success"]) if k != index]
        assert judge(good | {"validation_results": {"activeManifest": found | {"success": success}}}).state == "invalid"
    assert judge(good | {"validation_state": "Invalid"}).state == "invalid"
    assert judge(good | {"validation_state": None}).state == "invalid" and judge({}).state == "invalid"
    for code, state in (("claimSignature.outsideValidity", "invalid"), ("assertion.bmffHash.mismatch", "altered"), ("new.code", "invalid")):
        failure = [*found["failure"], {"code": code}]
        assert judge(good | {"validation_results": {"activeManifest": found | {"failure": failure}}}).state == state


def test_hashes_are_those_of_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_of(tmp_path / "a") == hash_of([b"a", b"bc"]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_manifest_names_the_watermarks_id_only_if_there_is_one():
    when = datetime.datetime(2026, 11, 29, 1, 2, 3, tzinfo=datetime.timezone.utc)
    manifest = manifest_of(Origin(model="tiny", picture="a", sound=("b",), mark_id=0x12AB), "a.mp4", when)
    created, details = (each["data"] for each in manifest["assertions"])
    assert created["actions"][0]["digitalSourceType"] == BY_MACHINE and created["actions"][0]["when"] == "2026-11-29T01:02:03Z"
    assert details["watermark"]["id"] == "000012ab" and manifest["title"] == "a.mp4"
