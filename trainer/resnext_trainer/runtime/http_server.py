"""A small HTTP server in a background thread, with one function per path."""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Response(NamedTuple):
    """Response to a GET request."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Routes = Mapping[str, Callable[[], Response]]

IDLE_SECONDS = 10.0
"""Time after which a connection that sends no request, or does not read the response, is closed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Pods may have only an IPv6 address; a dual-stack socket serves IPv4 and IPv6.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # The next attempt binds the port while connections of the last one may still be in TIME_WAIT.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # HTTPServer.server_bind looks up the FQDN of this machine, which can take seconds in a pod.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]


class HttpServer:
    """Serves on all addresses, from `start` until the process exits."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self.port: int | None = None
        """Port; None before `start`."""

    def start(self, port: int) -> int:
        """Returns the port, which the system chooses if `port` is 0; raises OSError if it cannot be bound."""
        server = _Server(("", port), _handler(self._routes))
        threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
        self.port = int(server.server_port)
        return self.port


def _handler(routes: Routes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = IDLE_SECONDS

        def do_GET(self) -> None:
            route = routes.get(self.path.partition("?")[0])
            answer = route() if route else Response(404, b"not found\n")
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Logs nothing: probes and scrapes arrive every few seconds."""

    return Handler
