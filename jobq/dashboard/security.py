"""Who may do what: sessions, tokens against forged requests, and the headers of every answer."""

from __future__ import annotations

import hmac
import inspect
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSION_COOKIE = "jobq_session"
SESSION_S = 12 * 3_600
MESSAGE_S = 60
MOST_NAME = 100
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

Authorize = Callable[[Request], "str | Awaitable[str | None] | None"]


class SecureHeaders:
    """Puts the headers on every answer; nothing but the style sheet and the scripts is kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "/static/" not in scope["path"]:
                    headers["cache-control"] = "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


@dataclass(frozen=True)
class Visitor:
    """Who looks."""

    actor: str | None
    """Under which name actions are audited; None for who may only look."""
    csrf: str
    """What every form of theirs has to bring along."""


class Access:
    """Three ways: open and read-only; a token for everything; or the host's own authentication."""

    def __init__(
        self, *, token: str | None, authorize: Authorize | None, secret: str | None
    ) -> None:
        self._token = token
        self._authorize = authorize
        key = secret or secrets.token_hex(32)
        self._sessions = URLSafeTimedSerializer(key, salt=f"jobq session {token or ''}")
        self._messages = URLSafeTimedSerializer(key, salt="jobq message")

    @property
    def has_login(self) -> bool:
        return self._token is not None

    def sign(self, message: str) -> str:
        """A message to be shown by the next page: nobody else is to put words there."""
        return str(self._messages.dumps(message))

    def signed(self, text: str) -> str:
        """Return the message, or nothing if it is not ours."""
        try:
            return str(self._messages.loads(text, max_age=MESSAGE_S))
        except BadSignature:
            return ""

    async def visitor(self, request: Request) -> Visitor | None:
        """Return who asks, None if they have to log in. Raises HTTPException 403."""
        session = self._session(request)
        if self._authorize is not None:
            answer = self._authorize(request)
            actor = await answer if inspect.isawaitable(answer) else answer
            if actor is None:
                raise HTTPException(403, "you may not see this")
            is_same = session.get("actor") == actor
            return Visitor(actor, session["csrf"] if is_same else secrets.token_urlsafe(24))
        if self._token is None:
            return Visitor(None, "")
        return Visitor(session["actor"], session["csrf"]) if session else None

    def log_in(self, token: str, name: str) -> Visitor | None:
        """Return the visitor if that is the token."""
        if self._token is None or not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        actor = "".join(sign for sign in name.strip() if sign.isprintable())[:MOST_NAME]
        return Visitor(actor or "dashboard", secrets.token_urlsafe(24))

    def keep(self, request: Request, response: Response, visitor: Visitor) -> None:
        """Have the browser bring the session along."""
        if visitor.actor is None or self._session(request).get("csrf") == visitor.csrf:
            return
        response.set_cookie(
            SESSION_COOKIE,
            self._sessions.dumps({"actor": visitor.actor, "csrf": visitor.csrf}),
            max_age=SESSION_S,
            path=request.scope.get("root_path") or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def forget(self, request: Request, response: Response) -> None:
        response.delete_cookie(SESSION_COOKIE, path=request.scope.get("root_path") or "/")

    async def check_action(self, request: Request, visitor: Visitor) -> None:
        """Raise HTTPException 403 unless the visitor may act, and meant to.

        A form of another site lacks the session's token, and the browser says where it came from.
        """
        if visitor.actor is None:
            raise HTTPException(403, "this dashboard is read-only: start it with a token")
        check_origin(request)
        form = await request.form()
        given = form.get("csrf")
        if not isinstance(given, str) or not hmac.compare_digest(
            given.encode(), visitor.csrf.encode()
        ):
            raise HTTPException(403, "the form is too old: load the page again")

    def _session(self, request: Request) -> dict[str, Any]:
        try:
            session: dict[str, Any] = self._sessions.loads(
                request.cookies.get(SESSION_COOKIE, ""), max_age=SESSION_S
            )
        except BadSignature:
            return {}
        return session


def check_origin(request: Request) -> None:
    """Raise HTTPException 403 for a request that another site had the browser make.

    Browsers say where a request comes from; older ones only its origin, and not even that (`null`)
    where the page sends no referrer, as ours do.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        is_ours = site in ("same-origin", "none")
    else:
        is_ours = origin is None or origin.partition("://")[2] == request.headers.get("host")
    if not is_ours:
        raise HTTPException(403, "the request came from another site")
