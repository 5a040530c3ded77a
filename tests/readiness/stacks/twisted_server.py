"""Twisted, whose reactor has the socket in its epoll set long before it runs."""

from __future__ import annotations

from start import hold, listener, serving
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site


class Hello(Resource):
    isLeaf = True  # noqa: N815 - Twisted's name

    def render_GET(self, _request: object) -> bytes:  # noqa: N802 - Twisted's name
        return b"hello"


with listener() as waited:
    waited.setblocking(False)
    reactor.adoptStreamPort(waited.fileno(), waited.family, Site(Hello()))
hold()
serving()
reactor.run()
