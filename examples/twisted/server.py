"""A web server on Twisted: with lithos it serves on descriptor 3, by hand on port 8000."""

import os
import socket

from twisted.internet import error, reactor
from twisted.internet.defer import Deferred, succeed
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

NAME = os.environ.get("LITHOS_NAME", "a plain process")
VERSION = os.environ.get("VERSION", "0")
PATIENCE = 3  # seconds; `kill-timeout` of the container file must be more


class Clients(WrappingFactory):
    """The connections of a factory, and an end that cuts no request off."""

    stopped: Deferred[None] | None = None

    def stop(self) -> Deferred[None]:
        """Wait until all clients have gone, at most for PATIENCE."""
        self.stopped = Deferred() if self.protocols else succeed(None)
        self.stopped.addTimeout(PATIENCE, reactor)
        return self.stopped.addErrback(lambda failure: failure.trap(error.TimeoutError))

    def unregisterProtocol(self, protocol: ProtocolWrapper) -> None:  # noqa: N802 - Twisted's name
        """Forget a client that has gone."""
        super().unregisterProtocol(protocol)
        if self.stopped and not self.stopped.called and not self.protocols:
            self.stopped.callback(None)


class Hello(Resource):
    """Says who answers."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def render_GET(self, request: Request) -> bytes:  # noqa: N802 - Twisted's name
        """Answer; a client whose connection is kept is asked to close it when we are about to end."""
        request.setHeader("Content-Type", "text/plain")
        if clients.stopped:
            request.setHeader("Connection", "close")
        return f"Hello from {NAME}, version {VERSION}\n".encode()


clients = Clients(Site(Hello()))
if os.environ.get("LISTEN_FDS") == "1":
    with socket.socket(fileno=3) as listener:
        listener.setblocking(False)
        reactor.adoptStreamPort(listener.fileno(), listener.family, clients)
else:
    reactor.listenTCP(8000, clients, interface="127.0.0.1")
reactor.addSystemEventTrigger("before", "shutdown", clients.stop)
reactor.run()
