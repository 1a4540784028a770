"""uvicorn around the application: say when it listens, and end requests in flight when their grace is over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from rung.rollouts.answering import Served
from rung.rollouts.server import build

LAST_WORDS = 5  # seconds after the grace for ended requests to send their last event


class Server(uvicorn.Server):
    def __init__(self, served: Served, grace: float, listening: Callable[[], None]):
        super().__init__(
            uvicorn.Config(
                build(served),
                log_level="warning",
                timeout_graceful_shutdown=int(grace) + LAST_WORDS,
                server_header=False,
            )
        )
        self.worker, self.grace, self.listening = served.worker, grace, listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        over = asyncio.get_running_loop().call_later(self.grace, self.worker.abort_all)
        await super().shutdown(sockets)
        over.cancel()
