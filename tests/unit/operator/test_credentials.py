"""Credentials for the API server, and requests that use them."""

import asyncio
from pathlib import Path

import aiohttp
import kopf
import pytest
from aiohttp import web

from resnext_operator.runtime import client, credentials
from resnext_operator.runtime.client import ApiError, connect
from tests.support.fake_api import ApiServer

ACCOUNT = kopf.ConnectionInfo(server="https://kubernetes.default.svc", token="of the pod")


def test_replaced_token_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet replaces the token of a service account every hour; a file that is being replaced is ignored."""
    monkeypatch.setattr(credentials, "_REREAD_SECONDS", 0.0)
    seen: list[str] = []

    async def scenario() -> None:
        server = ApiServer("lab")
        async with server.serve(tmp_path) as config:
            monkeypatch.setenv("KUBECONFIG", str(config))
            first = config.read_text()
            async with connect(1, lambda *_: None) as found:
                for text in (first, first.replace('"x"', '"y"'), "{"):
                    config.write_text(text)
                    seen.append(found._authentication()["Authorization"])
                    await found.request("GET", "/api/v1")

    asyncio.run(scenario())
    assert seen == ["Bearer x", "Bearer y", "Bearer y"]


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("10.96.0.1", "https://10.96.0.1:443"),
        ("fd00::1", "https://[fd00::1]:443"),
        ("", "https://kubernetes.default.svc"),
    ],
)
def test_login_in_pod_needs_no_dns(monkeypatch: pytest.MonkeyPatch, host: str, server: str) -> None:
    """The address comes from the environment, as for client-go: the Lease is renewed while DNS is down."""
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: ACCOUNT)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = credentials.login()
    assert (found.server, found.token) == (server, "of the pod")


def test_login_without_kubeconfig_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Outside of a pod and without a kubeconfig."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(kopf.LoginError, match="set KUBECONFIG"):
        credentials.login()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"message": "pods is forbidden"}', "pods is forbidden"),
        ("<html>", "Forbidden"),
        ("[]", "Forbidden"),
        ("", "Forbidden"),
    ],
)
def test_error_response_of_any_content_is_api_error(body: str, message: str) -> None:
    """A load balancer in front of the API server answers with HTML or with nothing."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=403, text=body)

    async def scenario() -> ApiError:
        app = web.Application()
        app.router.add_get("/api", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with aiohttp.ClientSession() as session:
            try:
                await client.KubeClient(session, url, dict, lambda *_: None).request("GET", "/api")
            except ApiError as error:
                return error
            finally:
                await runner.cleanup()
        raise AssertionError("no error")

    error = asyncio.run(scenario())
    assert (error.code, error.message) == (403, message)
