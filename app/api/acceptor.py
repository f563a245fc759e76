"""Accepts connections while file descriptors are available; others wait, or get a 503.

uvloop takes all that wait at once, and where the process has no descriptor left it closes every one of them
without a word: a client sees a reset and cannot know that nothing was done. Here a connection is taken only
while a few descriptors would be left, for calls upstream and files. Beyond that clients wait in the kernel's
queue, where nothing is lost, for up to a second; whoever waits longer gets 503 with ``retry-after`` over the
last descriptor, which is kept for this.

That a descriptor is scarce shows in its number: the kernel always gives the lowest that is free.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvloop

from app.upstream.rounds import Rounds

_MAX_ACCEPTS = 64
"""Taken before the loop goes on."""
_RESERVE, _RESERVE_PART = 64, 8
"""Descriptors that are kept free; on a small limit one in eight."""
_MAX_DESCRIPTORS = 1 << 20
_RETRY_S = 0.02
WAIT_S = 1.0
"""How long a client waits in the kernel's accept queue for a descriptor before it gets a 503."""
_MAX_REFUSALS = 32
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BODY = (
    b'{"error":{"message":"no descriptor is free: come back","type":"error","code":"overloaded"}}'
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)
_log = logging.getLogger("slipstream.api")
Protocols = Callable[[], asyncio.Protocol]


def is_scarce(descriptor: int) -> bool:
    """Whether a descriptor with so high a number means that few are left."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return descriptor >= most - min(_RESERVE, max(4, most // _RESERVE_PART))


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit, for this process and its children.

    Shells and service managers give 1,024 of many more for the sake of programs that use select(), which
    nothing here does; with a connection to each side a gateway would be full at 500 streams.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class GatewayLoop(uvloop.Loop):
    """uvloop's loop, whose TCP servers over a given socket accept connections as this module describes."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = Rounds(self)

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Protocols, *args: Any, **more: Any
    ) -> Any:
        """As uvloop's, except for a plain TCP server over ``sock``."""
        sock: socket.socket | None = more.get("sock")
        secure: ssl.SSLContext | None = more.get("ssl")
        if (
            sock is None
            or secure is not None
            or sock.family not in {socket.AF_INET, socket.AF_INET6}
        ):
            return await super().create_server(protocol_factory, *args, **more)
        acceptor = Acceptor(self, sock, protocol_factory)
        acceptor.begin()
        return acceptor


class Acceptor:
    """One listening socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        protocols: Protocols,
        is_scarce: Callable[[int], bool] = is_scarce,
        wait_s: float = WAIT_S,
    ) -> None:
        """Take connections of ``listening``, which listens already, once ``begin`` is called.

        ``is_scarce`` says of a descriptor's number whether few are left; clients wait ``wait_s`` for one.
        """
        self._is_scarce, self._wait_s = is_scarce, wait_s
        self.sockets = (listening,)
        self._loop, self._listening, self._protocols = loop, listening, protocols
        self._descriptor = listening.fileno()
        self._spare: int | None = None
        self._resume_timer: asyncio.TimerHandle | None = None
        self._paused_s = 0.0
        self._connecting: set[asyncio.Task[object]] = set()
        self._open = False

    def begin(self) -> None:
        """Start accepting."""
        self._listening.setblocking(False)  # noqa: FBT003 - the socket's own signature
        self._keep_spare()
        self._open = True
        self._loop.add_reader(self._descriptor, self._accept_pending)

    def close(self) -> None:
        """Stop accepting; idempotent. The socket stays open: its owner closes it."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._descriptor)
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    async def wait_closed(self) -> None:
        """Wait for connections that are being accepted."""
        while self._connecting:
            await asyncio.wait(set(self._connecting))

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._open

    def _accept_pending(self) -> None:
        for _ in range(_MAX_ACCEPTS):
            try:
                taken, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                if exc.errno not in _SCARCE:
                    raise
                self._pause()
                return
            self._serve(taken)
            if self._is_scarce(taken.fileno()):
                self._pause()
                return

    def _serve(self, taken: socket.socket) -> None:
        taken.setblocking(False)  # noqa: FBT003 - the socket's own signature
        task = asyncio.ensure_future(  # noqa: TID251 - ends with the handshake of two lines, at close at last
            self._loop.connect_accepted_socket(self._protocols, taken), loop=self._loop
        )
        self._connecting.add(task)
        task.add_done_callback(self._connection_made)

    def _connection_made(self, task: asyncio.Task[object]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.warning("connection_not_taken", extra={"why": type(failure).__name__})

    def _pause(self) -> None:
        """Leave waiting connections in the kernel's queue until a descriptor is free."""
        if self._resume_timer is not None:
            return
        self._loop.remove_reader(self._descriptor)
        self._paused_s = self._loop.time()
        self._resume_timer = self._loop.call_later(_RETRY_S, self._try_resume)

    def _try_resume(self) -> None:
        self._resume_timer = None
        if not self._open:
            return
        if self._has_room():
            self._keep_spare()
            self._loop.add_reader(self._descriptor, self._accept_pending)
            return
        if self._loop.time() - self._paused_s >= self._wait_s:
            self._refuse_waiting()
        self._resume_timer = self._loop.call_later(_RETRY_S, self._try_resume)

    def _has_room(self) -> bool:
        try:
            probe = os.dup(self._descriptor)
        except OSError:
            return False
        os.close(probe)
        return not self._is_scarce(probe)

    def _keep_spare(self) -> None:
        if self._spare is None:
            with suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _refuse_waiting(self) -> None:
        """Answer 503 to connections that have waited too long, one at a time over the spare descriptor."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        for _ in range(_MAX_REFUSALS):
            try:
                taken, _address = self._listening.accept()
            except OSError:
                break
            with suppress(OSError), taken:
                taken.setblocking(False)  # noqa: FBT003 - the socket's own signature
                with suppress(BlockingIOError):
                    taken.recv(
                        65_536
                    )  # what is unread at the end would make a reset, ahead of the answer
                taken.send(_FULL)
                taken.shutdown(socket.SHUT_WR)
        self._keep_spare()
