"""The page on which a person can try a live session: files of this package, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent / "web"
SAMPLE = Path(__file__).parents[1] / "assets" / "portrait.jpg"
PAGE = {
    "/": FOLDER / "index.html",
    "/style.css": FOLDER / "style.css",
    "/page.js": FOLDER / "page.js",
    "/player.js": FOLDER / "player.js",
    "/microphone.js": FOLDER / "microphone.js",
    "/portrait.jpg": SAMPLE,
}
"""What is served under which path."""
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address may hold the token
    "X-Content-Type-Options": "nosniff",
}


async def show_page(file: Path, request: web.Request) -> web.FileResponse:
    """One file of the page."""
    return web.FileResponse(file, headers=HEADERS)
