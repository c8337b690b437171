"""The HTTP server of one sandbox: a uvicorn in a daemon thread, on a port of 127.0.0.1 that the system picks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
import weakref
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

# 64 concurrent clients must not wait for each other's tables
THREADS = 80
BACKLOG = 512

_running: weakref.WeakSet[LoopbackServer] = weakref.WeakSet()


class LoopbackServer:
    """Serve an ASGI application on 127.0.0.1 until :meth:`close`; of port 0 the system picks one.

    Raise OSError where the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._socket = _bound_socket(port)
        self.port: int = self._socket.getsockname()[1]
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._server: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        _running.add(self)

    @property
    def url(self) -> str:
        """Address without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, app: ASGIApp) -> None:
        """Start the server; return when it accepts requests.

        Raise RuntimeError where the server did not come up.
        """
        import uvicorn

        config = uvicorn.Config(
            app,
            log_config=None,
            interface="asgi3",
            lifespan="off",
            ws="none",
            http=_protocol(),
            backlog=BACKLOG,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._run, name=f"cortexclient-sandbox-{self.port}", daemon=True
        )
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError(
                    f"the sandbox's server on port {self.port} did not start"
                ) from self._failure
            time.sleep(0.002)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - kept for start(), which runs in the thread that can report it
            self._failure = error

    async def _serve(self) -> None:
        from anyio.to_thread import current_default_thread_limiter

        self._loop = asyncio.get_running_loop()
        current_default_thread_limiter().total_tokens = THREADS
        await self._server.serve(sockets=[self._socket])

    def refuse(self, seconds: float) -> None:
        """Stop listening for some seconds, so that new connections are refused; the port stays ours."""
        loop, server = self._loop, self._server
        if loop is not None and server is not None and server.servers:
            loop.call_soon_threadsafe(lambda: loop.create_task(self._refuse(seconds)))

    async def _refuse(self, seconds: float) -> None:
        listener, *rest = self._server.servers
        if not listener.is_serving():
            return
        backlog = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        backlog.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.close()
        # bound but not listening: the system refuses, and no other process gets the port
        backlog.bind(("127.0.0.1", self.port))
        for connection in list(self._server.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(seconds)
        if self._server.should_exit:
            backlog.close()
            return
        create = listener._protocol_factory  # the factory that uvicorn made of its configuration
        self._server.servers = [
            await asyncio.get_running_loop().create_server(create, sock=backlog, backlog=BACKLOG),
            *rest,
        ]
        self._socket = backlog

    def close(self) -> None:
        """Stop the server and wait until its thread has ended."""
        _running.discard(self)
        if os.getpid() != self._pid:  # a forked child inherits the object, not the thread
            self._abandon()
            return
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
            _join_workers()
        with contextlib.suppress(OSError):
            self._socket.close()

    def _abandon(self) -> None:
        """Close this server's sockets in a forked child, where no thread serves them.

        Otherwise a connection that the parent closes would stay open for its client for as long as the child lives.
        """
        state = getattr(self._server, "server_state", None)
        transports = [connection.transport for connection in getattr(state, "connections", ())]
        sockets = [transport.get_extra_info("socket") for transport in transports if transport is not None]
        nothing = os.open(os.devnull, os.O_RDWR)
        for inherited in (self._socket, *sockets):
            with contextlib.suppress(OSError):
                # the event loop's objects still own the number; closing it would free it for another file
                os.dup2(nothing, inherited.fileno(), inheritable=False)
        os.close(nothing)


def _bound_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def _protocol() -> type[asyncio.Protocol]:
    """HTTP protocol of uvicorn that also leaves the connection in the scope, for the faults that break it."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from cortexclient.sandbox.misbehave import TRANSPORT

    class SandboxProtocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.access_log = False  # the sandbox keeps its own log

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            app = self.app

            async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
                scope[TRANSPORT] = transport
                await app(scope, receive, send)

            self.app: ASGIApp = with_transport

    return SandboxProtocol


def _join_workers() -> None:
    """Wait for the pool's threads: they end by themselves shortly after their loop has."""
    for thread in threading.enumerate():
        loop = getattr(thread, "loop", None)
        if thread.name == "AnyIO worker thread" and loop is not None and loop.is_closed():
            thread.join(timeout=5)


def _after_fork() -> None:
    for server in list(_running):
        server._abandon()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
