"""A local server that speaks the part of the OpenAI protocol that a judge needs, with faults on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | bytes  # what the model says, an HTTP status without an answer, or the raw body of a response


@dataclass
class Server:
    """`url` is the base URL; `answer` says what comes back to the text of a question, given its number from 0."""

    answer: Callable[[str, int], Answer]
    url: str = ""
    questions: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def judge_server(answer: Callable[[str, int], Answer]) -> Iterator[Server]:
    """The server, on a free port of this machine."""
    state = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = request["messages"][-1]["content"]
            with state.lock:
                number = len(state.questions)
                state.questions.append(text)
                state.requests.append({**request, "path": self.path})
                state.keys.add(self.headers["Authorization"])
            found = state.answer(text, number)
            status = found if isinstance(found, int) else 200
            message = {"role": "assistant", "content": found}
            whole = {"id": "1", "object": "chat.completion", "created": 1, "model": request["model"]}
            whole["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
            body = found if isinstance(found, bytes) else json.dumps({} if status != 200 else whole).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
