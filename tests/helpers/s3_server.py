"""An S3 server on the loopback address (moto), in which requests fail, break off and hang on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from scoreonce.stages.remote import folder as remote_folder
from scoreonce.stages.remote import retries
from scoreonce.stages.remote.folder import RemoteFolder

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIATESTING",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/bPxRfi",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}
Fault = Callable[[str, str], str | None]  # method and path -> "500", "503", "cut", "hang" or "deaf"


class S3Server:
    """`fault` is asked before every request; `requests` are those that came, as "GET /bucket/key"."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self.fault: Fault = lambda method, path: None
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.url = ""
        self.slept: list[float] = []  # the pauses between tries, which are not made
        self.system: Any = None  # s3fs

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(f"{method} {path}")
        wrong = self.fault(method, path)
        if wrong in ("500", "503"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
            start(f"{wrong} Error", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if wrong == "hang":
            self.closing.wait(30)
        if wrong == "deaf":
            environ["wsgi.input"].read()  # for more than the client sends, until it goes
            return []
        found = self._application(environ, start)
        if wrong != "cut":
            return found
        whole = b"".join(found)
        return [whole[: len(whole) // 2]]  # the header says more: the connection breaks off

    def count(self, method: str, ending: str) -> int:
        """Requests of a method for paths with that ending."""
        return sum(each.startswith(f"{method} ") and each.endswith(ending) for each in self.requests)


def emptied(server: S3Server, patch: pytest.MonkeyPatch) -> S3Server:
    """The server for one test: an empty bucket, no faults, credentials in the environment, and no time to lose."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
        patch.setenv(name, value)
    server.slept = []
    patch.setattr(retries, "DEFAULT", retries.Retries(sleep=server.slept.append))
    options = {"config_kwargs": {**remote_folder._OPTIONS["s3"]["config_kwargs"], "read_timeout": 2.0}}
    patch.setitem(remote_folder._OPTIONS, "s3", options)
    server.fault = lambda method, path: None
    server.system = RemoteFolder.open("s3://bucket/x")._filesystem
    if server.system.exists("bucket"):
        server.system.rm("bucket", recursive=True)
    server.system.mkdir("bucket")
    server.requests.clear()
    return server


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """The server, running, with an empty bucket named bucket."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """Say nothing."""

    server = S3Server(DomainDispatcherApplication(create_backend_app))
    running = make_server("127.0.0.1", 0, server, threaded=True, request_handler=Quiet)
    server.url = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        running.shutdown()
        running.server_close()
        thread.join()
        for backends in s3_backends.values():
            for backend in backends.values():
                backend.reset()
