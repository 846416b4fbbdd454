"""Debian's promtool and Prometheus, which `python3 hack/devenv prometheus` unpacks unless PATH has them."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import urlopen

import yaml

from hack.devenv.places import BIN
from tests.support.processes import free_port


def program(name: str) -> str:
    """Path of promtool or prometheus."""
    found = shutil.which(name) or shutil.which(name, path=str(BIN))
    assert found, f"{name} not found: run `python3 hack/devenv prometheus`"
    return found


class Target(NamedTuple):
    """A target that Prometheus scrapes."""

    exposition: Callable[[], bytes]
    labels: Mapping[str, str]
    honor_labels: bool = False


@contextmanager
def serving(targets: Mapping[str, Target]) -> Iterator[int]:
    """Serve each target under its name as the path; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = targets[self.path.removeprefix("/")].exposition()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def prometheus(targets: Mapping[str, Target], rules: Path, folder: Path) -> Iterator[Callable[[str], Any]]:
    """A Prometheus that scrapes the targets and evaluates the rules; yields a function for its API."""
    with serving(targets) as target_port:
        jobs = [
            {
                "job_name": name,
                "metrics_path": f"/{name}",
                "honor_labels": target.honor_labels,
                "static_configs": [{"targets": [f"127.0.0.1:{target_port}"], "labels": dict(target.labels)}],
            }
            for name, target in targets.items()
        ]
        # A longer interval than necessary: it is also the timeout of a scrape, and the machine may be busy.
        interval = {"scrape_interval": "3s", "evaluation_interval": "1s"}
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump({"global": interval, "rule_files": [str(rules)], "scrape_configs": jobs}))
        port = free_port()
        command = [
            *(program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
        ]

        def api(path: str) -> Any:
            with urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as answer:
                return json.load(answer)["data"]

        with subprocess.Popen(command) as process:
            try:
                _wait_for_samples(api, len(targets))
                yield api
            finally:
                process.kill()


def _wait_for_samples(api: Callable[[str], Any], targets: int) -> None:
    """Wait until every target has been scraped."""
    deadline = time.monotonic() + 120
    while len(query(api, "up == 1")) < targets:
        assert time.monotonic() < deadline, "Prometheus did not scrape every target"
        time.sleep(0.1)


def query(api: Callable[[str], Any], promql: str) -> list[dict[str, Any]]:
    """Result of an instant query; empty while Prometheus starts."""
    try:
        result: list[dict[str, Any]] = api(f"query?query={quote(promql, safe='')}")["result"]
    except URLError as error:
        if isinstance(error, HTTPError) and error.code != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        return []
    return result
