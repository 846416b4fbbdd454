"""A small HTTP server in a thread: fixed paths, each answered by a function."""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Response(NamedTuple):
    """What a path answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Routes = Mapping[str, Callable[[], Response]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A pod's address may be IPv6 alone; one dual-stack socket serves both.
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # A rank of the next attempt takes the port while connections to the last one still time out.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Not HTTPServer's own: it looks up this machine's full name, which may take seconds in a pod.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]


class HttpServer:
    """Answers on all addresses until the process ends, once it is started."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self.port: int | None = None
        """Where it answers; None until it is started."""

    def start(self, port: int) -> int:
        """Returns the port, which the system chooses for 0; OSError if it cannot be had."""
        server = _Server(("", port), _handler(self._routes))
        threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
        self.port = int(server.server_port)
        return self.port


def _handler(routes: Routes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            route = routes.get(self.path.partition("?")[0])
            answer = route() if route else Response(404, b"not found\n")
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Probes and scrapes come every few seconds; they are not worth a line."""

    return Handler
