"""The page for people: HTML, CSS and JavaScript of our own, which ask this service and no other host."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES = {  # by path: the file, and its media type
    "/": ("index.html", "text/html"),
    "/docs/docs.css": ("docs.css", "text/css"),
    "/page/begin.js": ("begin.js", "text/javascript"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/sound.js": ("sound.js", "text/javascript"),
    "/page/spectrum.js": ("spectrum.js", "text/javascript"),
}
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "media-src blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "max-age=60",  # the files belong together: after an update none stays long
}


def routes() -> list[Route]:
    """Where the page and what it loads are, for GET. They are read once, here."""
    return [_route(path, name, kind) for path, (name, kind) in FILES.items()]


def _route(path: str, name: str, kind: str) -> Route:
    content = (files("runtime.server") / "page" / name).read_bytes()

    async def page(_: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return Route(path, page, methods=["GET"])
