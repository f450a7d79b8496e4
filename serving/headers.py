"""Headers that keep a browser from doing anything with an answer but read it."""

from starlette.types import Scope

NOTHING = b"default-src 'none'; frame-ancestors 'none'"
# what FastAPI's page of documentation is made of
DOCS = (
    b"default-src 'none'; frame-ancestors 'none'; connect-src 'self'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    b"style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com"
)
ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
HTTPS_ONLY = (b"strict-transport-security", b"max-age=31536000")


def protecting(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers of every response to this request."""
    policy = DOCS if scope["path"] == "/docs" else NOTHING
    encrypted = [HTTPS_ONLY] if scope.get("scheme") == "https" else []
    return [*ALWAYS, (b"content-security-policy", policy), *encrypted]
