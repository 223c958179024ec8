"""The page of ``rlcore play --web``: its files, and three calls that know nothing of any game in progress.

A request carries the moves of its game from the beginning, which are replayed and checked. So each tab has a game of
its own, a page may be loaded again, and the server keeps nothing but the agents.
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from rlcore.envs.games.engine import LEVELS, Engine, Strength
from rlcore.envs.games.session import Session, place
from rlcore.errors import InputError, one_line
from rlcore.game import Game
from rlcore.imports import optional
from rlcore.settings import Settings, mistakes

LOOPBACK = "127.0.0.1"
"""The address that only this machine reaches."""
LOCAL_NAMES = "127.0.0.1", "localhost", "::1"
EVERY_ADDRESS = "0.0.0.0", "::"
MOST_SIMULATIONS = 20_000
MOST_TEMPERATURE = 100.0
MOST_BYTES = 65_536
"""Of a request."""
PACKAGES = "starlette uvicorn"
PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Of every answer: nothing comes from elsewhere, and no other page shows this one inside itself."""

Scope = MutableMapping[str, Any]
ASGIApp = Callable[..., Awaitable[None]]


class PositionRequest(Settings):
    """A position, by the moves that lead to it."""

    moves: list[int] = Field(max_length=10_000)
    """Of the players from the beginning, by their numbers."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of what chance does; see `Session`."""


class AnalysisRequest(PositionRequest):
    """What an agent is asked about a position."""

    agent: int = Field(ge=0)
    """Its number, in the order of the command line."""
    simulations: int | None = Field(default=None, ge=0, le=MOST_SIMULATIONS)
    """Per search; null as in the run's evaluation, 0 for the policy alone."""
    temperature: float = Field(default=0.0, ge=0, le=MOST_TEMPERATURE)
    """Of the move; see `Strength`."""


Request = TypeVar("Request", bound=PositionRequest)


def game_facts(engines: Sequence[Engine], strength: Strength, first: bool) -> dict[str, Any]:
    """What a page needs to know once."""
    game = engines[0].game
    return {
        "title": title(game),
        "players": game.num_players,
        "names": [game.action_name(action) for action in range(game.num_actions)],
        "agents": [{"name": engine.name, "searches": engine.searches} for engine in engines],
        "levels": {level: one._asdict() for level, one in LEVELS.items()},
        "strength": strength._asdict(),
        "person": 0 if first else 1,
        "most": {"simulations": MOST_SIMULATIONS, "temperature": MOST_TEMPERATURE},
    }


def title(game: Game) -> str:
    """The name of a game for people: ``ConnectFour`` to ``Connect four``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(game).__name__).capitalize()


def position_facts(session: Session) -> dict[str, Any]:
    """A position as the page draws it."""
    board = session.board()
    return {
        "moves": session.moves,
        "movers": session.movers,
        "player": session.player,
        "outcome": session.outcome,
        "legal": session.legal,
        "cells": [cell._asdict() for cell in board],
        "places": {action: place(board, action) for action in session.legal},
        "last": session.last,
        "text": session.game.render(session.state[0]),
    }


def analysis_facts(session: Session, engine: Engine, strength: Strength) -> dict[str, Any]:
    """What an agent makes of a position, with the cells that the moves of the principal variation go to.

    Raises:
        InputError: the game has ended.
    """
    if session.outcome is not None:
        raise InputError("the game has ended: there is nothing to analyse")
    analysis = engine.analyse(session.state, strength)
    ahead = Session(session.game, session.moves, session.seed)
    variation = []
    for action in analysis.variation:
        variation.append({"action": action, "player": ahead.player, "place": place(ahead.board(), action)})
        ahead.play(action)
    return {**analysis._asdict(), "variation": variation}


def make_app(
    engines: Sequence[Engine], strength: Strength | None = None, first: bool = True, host: str = LOOPBACK
) -> ASGIApp:
    """The page and its calls, as an ASGI application.

    ``GET /api/game``, ``POST /api/position`` and ``POST /api/analysis`` answer JSON; a mistake is status 400 or 413 and
    ``{"error": one line}``. Searches wait for one another.

    Args:
        engines: agents of one game; where there are two, they play each other, until the page is told otherwise.
        strength: of the agents, likewise.
        first: whether the person begins, likewise.
        host: the address that it is served at; see `Guard`.

    Raises:
        InputError: starlette is not installed.
    """
    starlette = partial(optional, who="rlcore play --web needs", install=PACKAGES)
    JSONResponse = starlette("starlette.responses").JSONResponse
    run_in_threadpool = starlette("starlette.concurrency").run_in_threadpool
    Route, Mount = (getattr(starlette("starlette.routing"), name) for name in ("Route", "Mount"))
    game, searching = engines[0].game, threading.Lock()
    facts = game_facts(engines, strength or Strength(), first)

    def position(asked: PositionRequest) -> dict[str, Any]:
        return position_facts(Session(game, asked.moves, asked.seed))

    def analysis(asked: AnalysisRequest) -> dict[str, Any]:
        if asked.agent >= len(engines):
            raise InputError(f"agent: must be 0 to {len(engines) - 1}, got {asked.agent}")
        session = Session(game, asked.moves, asked.seed)
        with searching:
            return analysis_facts(session, engines[asked.agent], Strength(asked.simulations, asked.temperature))

    def call(kind: type[Request], answer: Callable[[Request], dict[str, Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def endpoint(request: Any) -> Any:
            body = b""
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    return JSONResponse({"error": f"a request may have {MOST_BYTES:,} bytes"}, 413)
            try:
                return JSONResponse(await run_in_threadpool(answer, kind.model_validate_json(body)))
            except ValidationError as error:
                return JSONResponse({"error": one_line(_first(error, kind))}, 400)
            except InputError as error:
                return JSONResponse({"error": str(error)}, 400)

        return endpoint

    async def about(request: Any) -> Any:
        return JSONResponse(facts)

    app = starlette("starlette.applications").Starlette(
        routes=[
            Route("/api/game", about),
            Route("/api/position", call(PositionRequest, position), methods=["POST"]),
            Route("/api/analysis", call(AnalysisRequest, analysis), methods=["POST"]),
            Mount("/", starlette("starlette.staticfiles").StaticFiles(directory=PAGE, html=True)),
        ]
    )
    return Guard(app, host)


class Guard:
    """Answers only what this page itself asks, and adds `HEADERS`.

    A request must name a host that is meant: another site whose name was made to point here (DNS rebinding) names
    itself. And one that says where it comes from must come from here: a browser says so of every POST, so that other
    sites cannot make one.

    Args:
        app: the application.
        host: the address that it is served at. Its name is meant, and so are those of this machine; where it is served
            at every address, any address is, but no further name.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Passes a request on, or answers 403."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        refusal = self.refusal(headers)
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
            return
        plain = [(b"content-type", b"text/plain; charset=utf-8")]
        await send_with_headers({"type": "http.response.start", "status": 403, "headers": plain})
        await send({"type": "http.response.body", "body": refusal.encode()})

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a request is refused, in one line; None if it is not.

        Args:
            headers: their names in small letters.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.is_meant(hostname(host)):
            return f"refused: the page is not served as {host or 'a host without a name'}; see rlcore play --host"
        if origin is not None and origin != f"http://{host}":
            return f"refused: asked by another page, {origin}"
        return None

    def is_meant(self, name: str) -> bool:
        """Whether a host of this name is the one that is served."""
        if name in (*LOCAL_NAMES, self.host.lower()):
            return True
        return self.host in EVERY_ADDRESS and _is_address(name)


def hostname(host: str) -> str:
    """The name or address in a Host header, without port and brackets: ``[::1]:8000`` to ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _first(error: ValidationError, kind: type[Settings]) -> str:
    """The first mistake in a request."""
    path, text = mistakes(error, kind)[0]
    return f"{'.'.join(path) or 'the request'}: {text}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Args:
        host: an address of this machine, or its name.
        port: 0 is any that is free.

    Raises:
        InputError: the port is taken, or the address is not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        message = f"cannot serve at {host}, port {port}: {error.strerror or error}; --port 0 takes one that is free"
        raise InputError(f"play: {message}") from None


def serve(
    engines: Sequence[Engine],
    strength: Strength | None = None,
    first: bool = True,
    host: str = LOOPBACK,
    port: int = 8000,
) -> None:
    """Serves the page until Ctrl-C; see `make_app` and `listen`.

    Raises:
        InputError: starlette or uvicorn is not installed, or the address cannot be had.
    """
    uvicorn = optional("uvicorn", "rlcore play --web needs", PACKAGES)
    app = make_app(engines, strength, first, host)
    with listen(host, port) as listening:
        name = f"[{host}]" if ":" in host else host
        print(f"play at http://{name}:{listening.getsockname()[1]}   (Ctrl-C ends it)", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    print("\nGoodbye.")
