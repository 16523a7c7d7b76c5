"""An HTTP server on this machine that answers chat completions as a script says: well, badly, late or never."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Hands each POST to the server's script and remembers what was asked."""

    protocol_version = "HTTP/1.1"
    server: "BadServer"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.body: dict[str, Any] = json.loads(self.rfile.read(length))
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append((self.path, dict(self.headers), self.body))
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        try:
            script = self.server.script
            script[min(number, len(script) - 1)](self)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up, as it should
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


class BadServer(ThreadingHTTPServer):
    """Follows `script`: the first request gets its first reply, and so on; the last one is repeated."""

    daemon_threads = True

    def __init__(self, script: list[Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.lock = threading.Lock()
        self.under_way = self.most_under_way = 0
        self.leaving = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serving(*script: Reply) -> Iterator[BadServer]:
    server = BadServer(list(script))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.leaving.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def says(text: str, *, finish: str = "stop") -> Reply:
    """A good answer of three tokens to a prompt of seven."""
    value = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
    return lambda handler: handler.send(200, json.dumps(value).encode(), Content_Type="application/json")


def fails(status: int, content: bytes = b"sorry", **headers: str) -> Reply:
    return lambda handler: handler.send(status, content, **headers)


def hangs(handler: Handler) -> None:
    """Take the request and say nothing until the server ends."""
    handler.server.leaving.wait(30)


def drips(handler: Handler) -> None:
    """Send a byte now and then, so that no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    while not handler.server.leaving.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def breaks_off(handler: Handler) -> None:
    """Close the connection in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": ')
    handler.close_connection = True
