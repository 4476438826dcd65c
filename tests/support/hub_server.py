"""A Hub on the loopback interface, and the real client that speaks to it in a process of its own.

The client reads the Hub's address when it is imported; hence the process.
"""

import base64
import hashlib
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

LARGE = (".safetensors", ".task")  # what the Hub keeps outside git, with SHA-256 for a checksum


class HubHandler(http.server.BaseHTTPRequestHandler):
    """The part of the Hub's protocol that loading and sending a model need."""

    def do_GET(self):
        self.answer(with_body=True)

    def do_HEAD(self):
        self.answer(with_body=False)

    def answer(self, with_body):
        parts = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
        self.server.log.append("/".join(parts))
        if parts == ["stop"]:
            self.send(200, b"", with_body)
            threading.Thread(target=self.server.stop).start()
            return
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        repo_id = "/".join(parts[:2])
        revisions = self.server.models.get(repo_id)
        if revisions is None:
            return self.send(404, b"{}", with_body, {"X-Error-Code": "RepoNotFound"})
        kind, revision, *rest = parts[2:] or ["revision", "main"]
        commit, folder = find(revisions, revision)
        if commit is None:
            return self.send(404, b"{}", with_body, {"X-Error-Code": "RevisionNotFound"})
        if is_api:
            return self.send(200, json.dumps(self.listing(repo_id, kind, commit, folder)).encode(), with_body)
        path = folder.joinpath(*rest)
        if not path.is_file():
            return self.send(404, b"", with_body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        self.send_file(repo_id, "/".join(rest), path.read_bytes(), commit, with_body)

    def listing(self, repo_id, kind, commit, folder):
        tree = [entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
        if kind == "tree":
            return tree
        siblings = [{"rfilename": each["path"]} for each in tree]
        private = repo_id in self.server.private
        return {"id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings, "private": private}

    def send_file(self, repo_id, name, content, commit, with_body):
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{git_oid(content)}"'}
        if name.endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
        wanted, first = self.headers.get("Range", ""), 0
        status = 200
        if with_body and wanted.startswith("bytes="):
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            status = 206
        faults = self.server.faults.get((repo_id, name), [])
        fault = faults.pop(0) if with_body and faults else None
        if with_body:
            self.server.sent.append((repo_id, name, first, fault))
        if fault == "broken":
            return self.send(500, b"", with_body)
        if fault == "flipped":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send(status, content[first:], with_body, headers, cut=fault == "cut")

    def do_POST(self):
        parts = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
        self.server.log.append("POST " + "/".join(parts))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "paths-info" in parts:
            _, folder = find(self.server.models["/".join(parts[2:4])], parts[5])
            names = urllib.parse.parse_qs(body.decode())["paths"]
            return self.send(200, json.dumps([entry(folder, folder / name) for name in names]).encode(), True)
        if "Authorization" not in self.headers:
            return self.send(401, b'{"error": "log in"}', True)
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            repo_id = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
            url = json.dumps({"url": f"{self.server.address}/{repo_id}", "id": repo_id}).encode()
            if repo_id in self.server.models:
                return self.send(409, url, True)
            self.server.models[repo_id] = {"main": ("0" * 40, self.server.root / "empty")}
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.server.private.add(repo_id)
            return self.send(200, url, True)
        if parts == ["api", "validate-yaml"]:
            return self.send(200, b'{"errors": [], "warnings": []}', True)
        if parts[-1] == "batch":
            objects = [self.upload_of(wanted) for wanted in json.loads(body)["objects"]]
            return self.send(200, json.dumps({"transfer": "basic", "objects": objects}).encode(), True)
        repo_id, kind, branch = "/".join(parts[2:4]), parts[4], parts[5]
        if kind == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.send(200, json.dumps({"files": modes}).encode(), True)
        commit = hashlib.sha1(body).hexdigest()
        folder = self.server.root / commit
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                continue
            path = folder / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = self.server.stored
            path.write_bytes(stored[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"]))
        self.server.models[repo_id][branch] = (commit, folder)
        address = f"{self.server.address}/{repo_id}/commit/{commit}"
        answer = {"success": True, "commitOid": commit, "commitUrl": address, "hookOutput": ""}
        self.send(200, json.dumps(answer).encode(), True)

    def upload_of(self, wanted):
        action = {"href": f"{self.server.address}/store/{wanted['oid']}", "header": {}}
        return wanted | {"authenticated": True, "actions": {"upload": action}}

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert sha256(content) == oid
        self.server.stored[oid] = content
        self.send(200, b"", True)

    def send(self, status, content, with_body, headers=None, cut=False):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def log_message(self, *arguments):
        pass


class Hub(http.server.ThreadingHTTPServer):
    """Serves folders as models.

    Attributes:
        models (`dict`): By id and branch the commit and its folder.
        faults (`dict`): By id and file what happens to its first downloads: "cut", "flipped" or "broken".
        sent (`list`): Of every download the id, the file, the first byte and the fault.
    """

    def __init__(self, models, root, faults=None):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.models, self.root, self.faults = models, root, faults or {}
        self.log, self.sent, self.private, self.stored = [], [], set(), {}
        self.address = f"http://127.0.0.1:{self.server_port}"
        (root / "empty").mkdir(exist_ok=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


def run_client(code, server, root, *arguments, **environment):
    """What the last line of a client's output says as JSON, and its stderr."""
    package = Path(importlib.util.find_spec("osmnet").origin).parent
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    own |= {
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(root / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(package.parent), str(Path(__file__).parents[2])]),
    }
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=own | environment, cwd=root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    server.stop()
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1]), run.stderr


def find(revisions, revision):
    """Commit and folder of a branch, tag or commit."""
    by_commit = {commit: (commit, folder) for commit, folder in revisions.values()}
    return revisions.get(revision) or by_commit.get(revision) or (None, None)


def entry(folder, path):
    """A file as a listing has it."""
    content, name = path.read_bytes(), path.relative_to(folder).as_posix()
    found = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
    return found | (
        {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 130}} if name.endswith(LARGE) else {}
    )


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
