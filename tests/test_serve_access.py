"""Who may speak with a server: the token, the server's names, other sites' pages, places, TLS."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from dataclasses import replace

import pytest

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
from serving import LIMITS, UPGRADE, NearPool, hear, picture_file, run, say  # noqa: E402

from livetalk_core.serve.access import Access, tls_context  # noqa: E402
from livetalk_core.serve.server import listening  # noqa: E402
from livetalk_core.serve.service import Service  # noqa: E402

PICTURE = picture_file()
TOKEN = "a-long-secret"
PATHS = ("/state", "/metrics", "/talk")


def answers(access, path="/talk", **options):
    async def visit(site):
        return await site.get(path, **options)

    status, text = run(visit, access=access)
    return status, text


def status_with(access=Access(), **headers) -> int:  # noqa: B008 (frozen)
    return answers(access, headers=UPGRADE | headers)[0]


@pytest.mark.parametrize(
    "headers, query, status",
    [
        ({}, "", 401),
        ({"Authorization": "Bearer wrong"}, "", 401),
        ({"Authorization": "Basic " + TOKEN}, "", 401),
        ({"Authorization": TOKEN}, "", 401),
        ({"Authorization": "Bearer \udcff"}, "", 401),
        ({"Authorization": "Bearer " + TOKEN}, "", 200),
        ({"Authorization": "bearer " + TOKEN}, "", 200),
        ({}, "?token=" + TOKEN, 200),
        ({}, "?token=", 401),
        ({}, "?token=%ff", 401),
        ({}, "?token=wrong", 401),
    ],
)
def test_only_who_knows_the_token_comes_in(headers, query, status):
    async def visit(site):
        if "\udcff" in headers.get("Authorization", ""):
            return await raw_status(site)
        return (await site.get("/state" + query, headers=headers))[0]

    async def raw_status(site):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(site.web.rsplit(":", 1)[1]))
        writer.write(b"GET /state HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return int(line.split()[1])

    assert run(visit, access=Access(token=TOKEN)) == status


def test_the_token_is_asked_for_everywhere_but_at_health_and_never_shown():
    access = Access(token=TOKEN)
    for path in PATHS:
        status, text = answers(access, path, headers=UPGRADE)
        assert status == 401 and "the token is missing or wrong" in json.loads(text)["error"] and TOKEN not in text
    assert answers(access, "/health") == (200, '{"status": "ready"}')
    status, text = answers(access, "/metrics?token=" + TOKEN)
    assert status == 200 and TOKEN not in text


def test_a_stream_opens_with_the_token():
    async def visit(site):
        socket = await site.connect(headers={"Authorization": "Bearer " + TOKEN})
        await socket.send_str("{}")
        await socket.send_bytes(PICTURE)
        await say(socket, 0.2)
        assert "mime" in await socket.receive_json()
        return await hear(socket)

    assert run(visit, access=Access(token=TOKEN))[1] == {"ended": True}


@pytest.mark.parametrize("token", ["two words", "ümlaut", "line\n"])
def test_a_token_that_cannot_be_sent_is_refused(token):
    with pytest.raises(ValueError, match="must be printable ASCII without spaces"):
        Access(token=token)


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost:8765", 101),
        ("talk.localhost", 101),
        ("192.168.1.5:8765", 101),
        ("[::1]:8765", 101),
        ("box.example", 101),
        ("BOX.example:80", 101),
        ("evil.example:8765", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("[::1", 421),
    ],
)
def test_a_name_that_is_not_this_servers_is_refused(host, status):
    """A page of evil.example whose name was made to lead here is of this server's own origin to the browser."""
    assert status_with(Access(hosts=("0.0.0.0", "Box.example")), Host=host, Origin=f"http://{host}") == status


@pytest.mark.parametrize(
    "origin, status", [("https://bad.example", 403), ("https://good.example", 101), ("null", 403), ("http://[", 403), (None, 101)]
)
def test_only_pages_that_are_allowed_may_connect(origin, status):
    assert status_with(Access(origins=("https://good.example",)), **({"Origin": origin} if origin else {})) == status


def test_what_is_no_websocket_is_told_so_and_takes_no_place():
    status, text = answers(Access(), "/talk")
    assert status == 426 and json.loads(text)["error"].startswith("this address speaks WebSocket")


def test_one_address_has_so_many_streams_and_no_more():
    async def visit(site):
        sockets = [await site.connect() for _ in range(2)]
        refused = await site.get("/talk", headers=UPGRADE)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as elsewhere:
            other = await elsewhere.ws_connect(site.address)
            await other.close()
        for socket in sockets:
            await socket.close()
        await site.service.admission.empty.wait()
        assert not site.service.admission.from_address, "addresses are forgotten"
        return *refused, await (await site.connect()).close()

    status, text, again = run(visit, limits=replace(LIMITS, sessions_per_address=2))
    assert status == 429 and json.loads(text)["error"] == "your address has its 2 streams already; end one of them first" and again


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, *subject]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_with_a_certificate_streams_are_encrypted(certificate):
    cert, key = certificate

    async def whole():
        service = Service([NearPool()], LIMITS)
        async with listening(service, "127.0.0.1", 0, tls_context(cert, key)) as address, aiohttp.ClientSession() as session:
            trusted = ssl.create_default_context(cafile=cert)
            socket = await session.ws_connect(address, ssl=trusted)
            await socket.send_str("{}")
            await socket.send_bytes(PICTURE)
            await say(socket, 0.2)
            await socket.receive_json()
            return address, await hear(socket)

    address, (_, last) = asyncio.run(whole())
    assert address.startswith("wss://127.0.0.1:") and last == {"ended": True}


def test_tls_files_that_cannot_be_used_are_named(certificate, tmp_path):
    cert, key = certificate
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    assert tls_context(None, None) is None
    with pytest.raises(ValueError, match="--tls-key needs --tls-cert"):
        tls_context(None, key)
    with pytest.raises(FileNotFoundError, match="none.pem: there is no such file"):
        tls_context(tmp_path / "none.pem", key)
    for pair in ((broken, key), (cert, broken), (cert, None)):
        with pytest.raises(ValueError, match="not a certificate and its key"):
            tls_context(*pair)
