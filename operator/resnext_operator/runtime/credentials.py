"""Credentials for the API server: those of the pod's service account, or those of the kubeconfig."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import kopf
import yaml

# The kubelet replaces the token of a service account before it expires; client-go reads the file as often.
_REREAD_SECONDS = 60.0


def login() -> kopf.ConnectionInfo:
    """The address of the API server with credentials. Raises kopf.LoginError if there are none."""
    settings = kopf.OperatorSettings()
    if account := kopf.login_with_service_account(settings=settings):
        return replace(account, server=_address() or account.server)
    if found := kopf.login_with_kubeconfig(settings=settings):
        return found
    raise kopf.LoginError("neither a service account nor a kubeconfig exists: set KUBECONFIG")


def _address() -> str:
    """Address of the API server from the environment, which requires no DNS; empty outside of a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class Credentials:
    """Credentials that are read again every minute."""

    def __init__(self) -> None:
        self.info = login()
        self._read = time.monotonic()

    def headers(self) -> Mapping[str, str]:
        """HTTP headers that authenticate a request."""
        now = time.monotonic()
        if now - self._read >= _REREAD_SECONDS:
            self._read = now
            # While a file is being replaced, the earlier credentials remain in use.
            with suppress(OSError, ValueError, KeyError, yaml.YAMLError, kopf.LoginError):
                self.info = login()
        return self.info.as_http_headers()
