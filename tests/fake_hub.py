"""A stand-in for the Hugging Face Hub that keeps everything in memory: repositories, commits, large files, tokens.

Speaks as much of the Hub's HTTP as `huggingface_hub`, transformers, peft and `datasets` use to push and to load
(https://huggingface.co/docs/hub/api; traced with huggingface-hub 2.4). Standard library only: it must be started
before `huggingface_hub` is imported, because `HF_ENDPOINT` is read at that moment. No Xet: set
`HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
USER = "somebody"
_LARGE = (".safetensors", ".parquet", ".bin", ".pt", ".onnx", ".png", ".jpg")
_KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}
_PAGES = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


@dataclass
class StoredFile:
    """Bytes as git knows them: `oid` names the blob, `sha256` the large file behind it."""

    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        blob = self.data
        if self.large:
            blob = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(blob)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    def entry(self, path: str) -> dict:
        found = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.large:
            found["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return found


@dataclass
class Repository:
    """One line of commits; the last one is `main`."""

    kind: str
    name: str
    private: bool = False
    sdk: str | None = None
    commits: list[tuple[str, str, dict[str, StoredFile]]] = field(default_factory=list)

    def __post_init__(self):
        self.commit("initial commit", {})

    def commit(self, message: str, files: dict[str, StoredFile]) -> str:
        number = f"{self.kind}/{self.name}/{len(self.commits)}/{message}"
        sha = hashlib.sha1(number.encode()).hexdigest()
        self.commits.append((sha, message, files))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, StoredFile]] | None:
        for sha, _, files in reversed(self.commits):
            if revision in ("main", "refs/heads/main", sha):
                return sha, files
        return None


class Refusal(Exception):
    """An answer other than 200, as the Hub words it: status, its code for the client, its sentence."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


class FakeHub:
    """The server. `with FakeHub() as hub:` starts it; `hub.url` is what `HF_ENDPOINT` must be.

    `repositories` maps `(kind, "user/name")` to [`Repository`]; `requests` lists `(method, path, status)`;
    `broken` makes every answer a 503.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.broken = self.stopped = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on connections are refused, as without a network."""
        self.stopped = True  # connections that are still open get no answer either
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: object, token: str | None = WRITER) -> dict[str, str]:
        """The variables of a process that talks to this stand-in and to nothing else."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
        }
        return variables | ({"HF_TOKEN": token} if token else {})

    def files(self, name: str, kind: str = "models") -> dict[str, bytes]:
        """Path and bytes of everything in the newest commit."""
        return {path: one.data for path, one in self.repositories[kind, name].commits[-1][2].items()}

    # What the routes share

    def _repository(self, kind: str, name: str, token: str | None, write: bool = False) -> Repository:
        """The repository, or the Hub's refusal; it never says whether a private one exists."""
        if token not in (None, WRITER, READER):
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        found = self.repositories.get((kind, name))
        if found is None or (found.private and token is None):
            if token is None:
                raise Refusal(401, "", "Invalid username or password.")
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if write and token != WRITER:
            raise Refusal(403, "", "You must have write access to this repository")
        return found

    def _tree(self, kind: str, name: str, revision: str, token: str | None) -> tuple[str, dict[str, StoredFile]]:
        found = self._repository(kind, name, token).at(revision)
        if found is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    # Routes: what is called with the request's parts returns JSON

    def who(self, token: str | None, **_: object) -> dict:
        if token not in (WRITER, READER):
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        role = "write" if token == WRITER else "read"
        return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": role}}}

    def check_card(self, **_: object) -> dict:
        return {"errors": [], "warnings": []}

    def create(self, token: str | None, body: bytes, **_: object) -> dict:
        self.who(token)
        if token != WRITER:
            raise Refusal(403, "", "You don't have the rights to create a repository with this token")
        wanted = json.loads(body)
        kind = _KINDS[wanted.get("type") or "model"]
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        url = f"{self.url}/{_PAGES[kind]}{name}"
        if name.split("/")[0] != USER:
            raise Refusal(403, "", f"You don't have the rights to create a {kind[:-1]} under this namespace")
        if (kind, name) in self.repositories:
            raise Refusal(409, "", "You already created this repository", {"X-Repository": url})
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.repositories[kind, name] = Repository(kind, name, private, wanted.get("sdk"))
        return {"url": url, "name": name, "id": name}

    def preupload(self, kind: str, name: str, token: str | None, body: bytes, **_: object) -> dict:
        files = self._repository(kind, name, token, write=True).commits[-1][2]
        return {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["size"] > 100_000 or one["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": files[one["path"]].oid if one["path"] in files else None,
                }
                for one in json.loads(body)["files"]
            ]
        }

    def large_batch(self, body: bytes, **_: object) -> dict:
        objects = []
        for one in json.loads(body)["objects"]:
            address = f"{self.url}/large/{one['oid']}"
            missing = one["oid"] not in self.large
            actions = {"actions": {"upload": {"href": address}, "verify": {"href": address + "/verify"}}}
            objects.append({"oid": one["oid"], "size": one["size"]} | (actions if missing else {}))
        return {"transfer": "basic", "objects": objects}

    def large_put(self, oid: str, body: bytes, **_: object) -> dict:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "", "The bytes are not those that were announced")
        self.large[oid] = body
        return {}

    def large_verify(self, **_: object) -> dict:
        return {}

    def commit(self, kind: str, name: str, token: str | None, body: bytes, **_: object) -> dict:
        repository = self._repository(kind, name, token, write=True)
        files, message = dict(repository.commits[-1][2]), ""
        for line in body.decode().splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "header":
                message = value["summary"]
            elif step["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), large=False)
            elif step["key"] == "lfsFile":
                files[value["path"]] = StoredFile(self.large[value["oid"]], large=True)
            elif step["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif step["key"] == "deletedFolder":
                inside = value["path"].rstrip("/") + "/"
                files = {path: one for path, one in files.items() if not path.startswith(inside)}
        sha = repository.commit(message, files)
        address = f"{self.url}/{_PAGES[kind]}{name}/commit/{sha}"
        return {"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""}

    def info(self, kind: str, name: str, token: str | None, revision: str | None = None, **_: object) -> dict:
        sha, files = self._tree(kind, name, revision or "main", token)
        repository = self.repositories[kind, name]
        moment = "2026-01-01T00:00:00.000Z"
        return {
            "_id": "0", "id": name, "modelId": name, "author": name.split("/")[0], "sha": sha, "tags": [],
            "private": repository.private, "disabled": False, "gated": False, "downloads": 0, "likes": 0,
            "lastModified": moment, "createdAt": moment, "sdk": repository.sdk,
            "siblings": [{"rfilename": path, "size": len(one.data)} for path, one in files.items()],
        }  # fmt: skip

    def references(self, kind: str, name: str, token: str | None, **_: object) -> dict:
        sha, _ = self._tree(kind, name, "main", token)
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": sha}
        return {"branches": [main], "tags": [], "converts": []}

    def tree(
        self, kind: str, name: str, token: str | None, revision: str, query: dict, path: str | None = None, **_: object
    ) -> list[dict]:
        _, files = self._tree(kind, name, revision, token)
        start = f"{path.rstrip('/')}/" if path else ""
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found, folders = [], set()
        for one, stored in files.items():
            if not one.startswith(start):
                continue
            parts = one[len(start) :].split("/")[:-1]
            folders |= {
                start + "/".join(parts[: depth + 1]) for depth in range(len(parts) if recursive else 1) if parts
            }
            if recursive or not parts:
                found.append(stored.entry(one))
        if path and not found and not folders:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist on {revision}")
        return found + [{"type": "directory", "path": one, "size": 0, "oid": "0" * 40} for one in sorted(folders)]

    def paths(self, kind: str, name: str, token: str | None, revision: str, body: bytes, **_: object) -> list[dict]:
        _, files = self._tree(kind, name, revision, token)
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        return [files[path].entry(path) for path in wanted if path in files]

    def file(self, kind: str, name: str, token: str | None, revision: str, path: str) -> tuple[StoredFile, dict]:
        """A file and the headers by which the client's cache knows it."""
        sha, files = self._tree(kind, name, revision, token)
        if path not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        stored = files[path]
        tag = f'"{stored.sha256 if stored.large else stored.oid}"'
        headers = {"X-Repo-Commit": sha, "ETag": tag, "Accept-Ranges": "bytes"}
        if stored.large:
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(len(stored.data))}
        return stored, headers


_REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", r"/api/whoami-v2", FakeHub.who),
    ("POST", r"/api/validate-yaml", FakeHub.check_card),
    ("POST", r"/api/repos/create", FakeHub.create),
    ("POST", _REPOSITORY + r"/preupload/(?P<revision>.+)", FakeHub.preupload),
    ("POST", _REPOSITORY + r"/commit/(?P<revision>.+)", FakeHub.commit),
    ("POST", _REPOSITORY + r"/paths-info/(?P<revision>[^/]+)", FakeHub.paths),
    ("POST", r"/.+\.git/info/lfs/objects/batch", FakeHub.large_batch),
    ("PUT", r"/large/(?P<oid>[0-9a-f]+)", FakeHub.large_put),
    ("POST", r"/large/(?P<oid>[0-9a-f]+)/verify", FakeHub.large_verify),
    ("GET", _REPOSITORY + r"/refs", FakeHub.references),
    ("GET", _REPOSITORY + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", FakeHub.tree),
    ("GET", _REPOSITORY + r"(/revision/(?P<revision>.+))?", FakeHub.info),
]
_FILE = re.compile(r"/((?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Requests are kept in `FakeHub.requests`; nothing is printed."""

    def _handle(self) -> None:
        address = urlsplit(self.path)
        path, body = unquote(address.path), self._body()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if self.hub.stopped:
            self.close_connection = True
            return
        try:
            if self.hub.broken:
                raise Refusal(503, "", "Service unavailable")
            if (match := _FILE.fullmatch(path)) and self.command in ("GET", "HEAD"):
                parts = match.groupdict() | {"kind": match["kind"] or "models"}
                self._send_file(*self.hub.file(token=token, **parts))
                return
            for method, pattern, function in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == self.command:
                    query = parse_qs(address.query)
                    answer = function(self.hub, token=token, body=body, query=query, **match.groupdict())
                    self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
                    return
            raise Refusal(404, "", f"No route {self.command} {path}")
        except Refusal as refusal:
            url = refusal.headers.get("X-Repository")
            text = json.dumps({"error": str(refusal)} | ({"url": url} if url else {}))
            self._send(refusal.status, text.encode(), {"Content-Type": "application/json"} | refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send_file(self, stored: StoredFile, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self._send(200, stored.data, headers | {"Content-Type": "application/octet-stream"})
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(stored.data)), len(stored.data) - 1)
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(stored.data)}"}
        self._send(206, stored.data[first : last + 1], headers | {"Content-Type": "application/octet-stream"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.hub.requests.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
