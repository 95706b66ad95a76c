"""A stand-in for the Hub on the loopback address: repositories, branches, large files and commits, as the client asks.

Answers what huggingface_hub sends, for uploads and for reading a dataset: the paths and fields are those of its client,
without Xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE = ".safetensors"
Files = dict[str, bytes]


@dataclass
class Hub:
    """`repositories` have the files of each branch; `refuse` answers every request with that status."""

    url: str = ""
    token: str = "hf_testing"
    repositories: dict[str, dict[str, Files]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: Files = field(default_factory=dict)  # large files by sha256
    commits: list[str] = field(default_factory=list)  # their messages
    requests: list[str] = field(default_factory=list)  # method and path
    refuse: int | None = None
    uploads: int = 0

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        """Status and document for a request, or the bytes of a file."""
        parts = unquote(path.partition("?")[0]).strip("/").split("/")
        self.requests.append(f"{method} /{'/'.join(parts)}")
        if method == "PUT" and parts[0] == "objects":  # a signed address takes no token
            self.uploads += 1
            self.objects[parts[1]] = body
            return (200, {}) if hashlib.sha256(body).hexdigest() == parts[1] else (400, {"error": "other content"})
        if self.refuse:
            return self.refuse, {"error": "refused"}
        if parts == ["api", "validate-yaml"]:
            return 200, {"errors": [], "warnings": []}
        if token != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials in Authorization header"}
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if name in self.repositories:
                return 409, {"error": "exists", "url": f"{self.url}/{name}"}
            self.repositories[name] = {"main": {}}
            self.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return 200, {"url": f"{self.url}/{name}"}
        if parts[-3:] == ["lfs", "objects", "batch"]:
            found = [self._large(each) for each in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": found}
        if parts[3:4] == ["resolve"]:
            return 200, self.repositories["/".join(parts[1:3])][parts[4]]["/".join(parts[5:])]
        name, (action, branch) = "/".join(parts[2:4]), (parts[4:6] or ("revision", "main"))
        if name not in self.repositories:
            return 404, {"error": "no such repository", "code": "RepoNotFound"}
        repository = self.repositories[name]
        if action == "tree":
            return self._tree(repository[branch], "/".join(parts[6:]))
        if action == "branch":
            repository[branch] = dict(repository["main"])
            return 200, {}
        if action == "preupload":
            there = repository[branch]
            files = [self._mode(each, there.get(each["path"])) for each in json.loads(body)["files"]]
            return 200, {"files": files}
        if action == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            self.commits.append(lines[0]["value"]["summary"])
            repository[branch] |= dict(self._committed(line) for line in lines[1:])
            oid = hashlib.sha1(body).hexdigest()
            url = f"{self.url}/{'/'.join(parts[2:4])}/commit/{oid}"
            return 200, {"commitUrl": url, "commitOid": oid}
        if action == "revision":
            return 200, {"id": "/".join(parts[2:4]), "sha": "0" * 40, "siblings": [], "tags": []}
        return 404, {"error": f"{method} {path}"}

    @staticmethod
    def _tree(files: Files, folder: str) -> tuple[int, Any]:
        """The files of a folder, which ends with no slash; a file is none."""
        below = {path: contents for path, contents in files.items() if path.startswith(f"{folder}/" if folder else "")}
        found = [
            {"type": "file", "path": path, "size": len(contents), "oid": hashlib.sha1(contents).hexdigest()}
            for path, contents in below.items()
        ]
        return (200, found) if found else (404, {"error": "no such folder", "code": "EntryNotFound"})

    def _large(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.objects:
            return asked
        return {**asked, "actions": {"upload": {"href": f"{self.url}/objects/{asked['oid']}"}}}

    @staticmethod
    def _mode(asked: dict[str, Any], there: bytes | None) -> dict[str, Any]:
        large = asked["path"].endswith(LARGE)
        oid = None
        if there is not None:
            git = b"blob %d\0" % len(there) + there
            oid = hashlib.sha256(there).hexdigest() if large else hashlib.sha1(git).hexdigest()
        return {
            "path": asked["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            "oid": oid,
        }

    def _committed(self, line: dict[str, Any]) -> tuple[str, bytes]:
        value = line["value"]
        if line["key"] == "lfsFile":
            return value["path"], self.objects[value["oid"]]
        return value["path"], base64.b64decode(value["content"])


@contextmanager
def serving() -> Iterator[Hub]:
    """The stand-in, while it answers."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, document = hub.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            sent = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            if isinstance(document, dict) and "code" in document:
                self.send_header("X-Error-Code", document["code"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "POST", "PUT"):
        setattr(Handler, f"do_{method}", Handler._any)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
