"""A real HTTP server for the part of the hub's protocol that huggingface_hub uses."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """repositories: of each the files of branch main, which means COMMIT; card: what model_info tells of all of them.

    gated: repositories that answer 403; cut_after: bytes after which the first longer body breaks off.
    requests: (method, path) of all that was asked; ranges: the Range header of each download, "" without one.
    """

    repositories: Mapping[str, Mapping[str, bytes]]
    card: Mapping[str, str] = field(default_factory=dict)
    gated: frozenset[str] = frozenset()
    cut_after: int | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def downloads(self) -> list[str]:
        return [path for method, path in self.requests if method == "GET" and "/resolve/" in path]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port of this machine, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path))
            if path.startswith("/api/models/"):
                repo = path.removeprefix("/api/models/").partition("/revision/")[0]
                content = json.dumps({"id": repo, "sha": COMMIT, "cardData": dict(hub.card)}).encode()
                self._send(200 if repo in hub.repositories else 404, content, with_body)
                return
            repo, _, rest = path.removeprefix("/").partition("/resolve/")
            file = rest.partition("/")[2]
            if repo in hub.gated:
                self._send(
                    403, b"", with_body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}
                )
            elif repo not in hub.repositories:
                self._send(404, b"", with_body, {"X-Error-Code": "RepoNotFound"})
            elif file not in hub.repositories[repo]:
                self._send(404, b"", with_body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                self._send_file(hub.repositories[repo][file], with_body)

        def _send_file(self, content: bytes, with_body: bool) -> None:
            etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            asked = self.headers.get("Range", "")
            if with_body:
                hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
            if start:
                etag["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206 if start else 200, content[start:], with_body, etag)

        def _send(self, status: int, content: bytes, with_body: bool, headers: Mapping[str, str] = {}) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content[: self._cut(len(content))])

        def _cut(self, size: int) -> int:
            """Returns the part of a body that is sent: the first one longer than `cut_after` breaks off there."""
            if hub.cut_after is None or size <= hub.cut_after:
                return size
            cut, hub.cut_after = hub.cut_after, None
            return cut

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
