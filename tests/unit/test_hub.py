import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from export.errors import CheckpointError
from export.hub import needed_files
from tests.unit.helpers import ROOT, raises_line

NAME = "someone/some-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# of each part: the files that have to be chosen, and what else published repositories hold
NEEDED = [
    "model_index.json",
    "feature_extractor/preprocessor_config.json",
    "language_model/config.json",
    "language_model/generation_config.json",
    "language_model/model.safetensors",
    "projection_model/config.json",
    "projection_model/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors",
    "text_encoder_2/model.safetensors.index.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/spiece.model",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vocoder/config.json",
    "vocoder/pytorch_model-00001-of-00002.bin",
    "vocoder/pytorch_model-00002-of-00002.bin",
    "vocoder/pytorch_model.bin.index.json",
]
NOT_NEEDED = [
    ".gitattributes",
    "README.md",
    "audioldm2-full.ckpt",
    "audioldm2.safetensors",
    "images/spectrogram.png",
    "language_model/flax_model.msgpack",
    "language_model/model.fp16.safetensors",
    "language_model/pytorch_model.bin",
    "onnx/unet/config.json",
    "onnx/unet/model.onnx",
    "projection_model/diffusion_pytorch_model.bin",
    "samples/rain.wav",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.fp16.bin",
    "text_encoder_2/model.fp16-00001-of-00002.safetensors",
    "text_encoder_2/model.fp16-00002-of-00002.safetensors",
    "text_encoder_2/pytorch_model-00001-of-00002.bin",
    "text_encoder_2/pytorch_model-00002-of-00002.bin",
    "text_encoder_2/tf_model.h5",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/old/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.fp16.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
]


def test_needed_files_of_a_full_repository() -> None:
    chosen = needed_files(sorted(NEEDED + NOT_NEEDED))
    assert sorted(chosen) == sorted(NEEDED)


def test_needed_files_do_not_depend_on_the_order() -> None:
    listing = NEEDED + NOT_NEEDED
    np.random.default_rng().shuffle(listing)
    assert sorted(needed_files(listing)) == sorted(NEEDED)


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "pytorch_model.fp16.bin"], ["pytorch_model.bin"]),
        (["model.fp16.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["old/model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["model.fp16.safetensors"], ["model.fp16.safetensors"]),  # the only ones there are
        (["model.fp16.safetensors", "pytorch_model.fp16.bin"], ["model.fp16.safetensors"]),
        (["optimizer.bin", "training_args.bin", "scheduler.bin", "pytorch_lora_weights.safetensors"], []),
        (["flax_model.msgpack", "model.onnx"], []),
    ],
)
def test_weights_of_one_part(weights: list[str], chosen: list[str]) -> None:
    assert needed_files([f"unet/{name}" for name in weights]) == [f"unet/{name}" for name in chosen]


def test_no_files() -> None:
    assert needed_files([]) == []


class Hub:
    """A hub on the loopback with one repository. Counts what is asked of it, and can be told to refuse or break."""

    def __init__(self, files: list[str]) -> None:
        self.files = {name: np.random.default_rng().bytes(5_000) for name in files}
        self.downloads: list[str] = []
        self.listing_refusal: tuple[int, str] | None = None  # status, X-Error-Code
        self.file_refusal: tuple[int, str] | None = None
        self.breaks_at: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path without its query."""
        if path in (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/main", f"/api/models/{NAME}/revision/v1"):
            siblings = [{"rfilename": name} for name in self.files]
            return self._refused(self.listing_refusal) or _json({"id": NAME, "sha": COMMIT, "siblings": siblings})
        if path == f"/api/models/{NAME}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": _etag(body)}
                for name, body in self.files.items()
            ]
            return self._refused(self.listing_refusal) or _json(tree)
        if path.startswith(f"/api/models/{NAME}/revision/"):
            return _refusal(404, "RevisionNotFound")
        if path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            body = self.files[path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")]
            return self._refused(self.file_refusal) or (200, {"ETag": f'"{_etag(body)}"'}, body)
        return _refusal(404, "RepoNotFound")

    @staticmethod
    def _refused(refusal: tuple[int, str] | None) -> tuple[int, dict[str, str], bytes] | None:
        return _refusal(*refusal) if refusal else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.respond(unquote(urlsplit(self.path).path), with_body=False)

            def do_GET(self) -> None:
                self.respond(unquote(urlsplit(self.path).path), with_body=True)

            def respond(self, path: str, *, with_body: bool) -> None:
                status, headers, body = hub.answer(path)
                name = path.partition(f"/resolve/{COMMIT}/")[2]
                if name and with_body:
                    hub.downloads.append(name)
                self.send_response(status)
                for key, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if with_body:
                    breaks = name and name == hub.breaks_at
                    resumed = "Range" in self.headers
                    self.wfile.write(body[: 0 if resumed else 1_000] if breaks else body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _etag(body: bytes) -> str:
    return sha1(body).hexdigest()


def _json(content: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _refusal(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"X-Error-Code": code, "X-Error-Message": "a reason", "Content-Type": "application/json"}
    return status, headers, json.dumps({"error": "first line\nsecond line"}).encode()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(NEEDED + NOT_NEEDED)
    yield made
    made.stop()


@dataclass(frozen=True)
class Fetched:
    """What `fetch` gave: a folder and a commit, or the message of its CheckpointError."""

    folder: Path | None
    commit: str | None
    error: str | None
    log: str = field(compare=False)

    def files(self) -> dict[str, bytes]:
        assert self.folder is not None, self.error
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def line(self) -> str:
        assert self.error is not None, self
        assert len(self.error.splitlines()) == 1, repr(self.error)
        return self.error


# huggingface_hub reads its address and cache from the environment when it is imported, hence another process; its
# retries wait for seconds, ours do not
_FETCH = """
import json, sys, time
time.sleep = lambda seconds: None
from export.errors import CheckpointError
from export.hub import fetch
try:
    folder, commit = fetch(*json.loads(sys.argv[1]))
    print(json.dumps({"folder": str(folder), "commit": commit, "error": None}))
except CheckpointError as error:
    print(json.dumps({"folder": None, "commit": None, "error": str(error)}))
"""


def fetch(
    url: str, cache: Path, name: str = NAME, revision: str | None = None, variant: str | None = None, **environment: str
) -> Fetched:
    ours = {"HF_ENDPOINT": url, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    theirs = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", _FETCH, json.dumps([name, revision, variant])],
        cwd=ROOT,
        env={**theirs, **ours, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return Fetched(answer["folder"] and Path(answer["folder"]), answer["commit"], answer["error"], done.stderr)


@pytest.mark.parametrize("revision", [None, "v1"])
def test_fetch_downloads_what_is_needed_once_and_then_works_offline(
    hub: Hub, tmp_path: Path, revision: str | None
) -> None:
    first = fetch(hub.url, tmp_path, revision=revision)
    assert first.commit == COMMIT
    assert first.files() == {name: hub.files[name] for name in NEEDED}
    assert sorted(hub.downloads) == sorted(NEEDED)
    hub.downloads.clear()
    again = fetch(hub.url, tmp_path, revision=revision)
    assert again == first
    assert "cached copy" not in again.log
    assert hub.downloads == []
    hub.stop()
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        offline = fetch(hub.url, tmp_path, revision=revision, **environment)
        assert offline == first
        assert "using the cached copy" in offline.log


def test_fetch_downloads_a_variant_where_there_is_one(hub: Hub, tmp_path: Path) -> None:
    """Parts without it are plain; `vae` has its fp16 weights in one file, `text_encoder_2` in shards."""
    fetched = fetch(hub.url, tmp_path, variant="fp16").files()
    for variant, plain in (
        ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        ("vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin"),
        ("text_encoder/model.fp16.safetensors", "text_encoder/model.safetensors"),
    ):
        assert variant in fetched
        assert plain not in fetched
    assert "vocoder/pytorch_model-00001-of-00002.bin" in fetched
    assert "projection_model/diffusion_pytorch_model.safetensors" in fetched


def test_a_variant_that_no_part_has_is_said_before_anything_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    line = fetch(hub.url, tmp_path, variant="int4").line()
    assert "'int4'" in line
    assert hub.downloads == []


def test_needed_files_of_a_sharded_variant() -> None:
    shards = [f"unet/diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.fp16.json"
    plain = ["unet/diffusion_pytorch_model.safetensors"]
    assert sorted(needed_files([*shards, index, *plain], "fp16")) == sorted([*shards, index])
    assert sorted(needed_files([*shards, index])) == sorted([*shards, index])
    assert sorted(needed_files([*shards, index, *plain])) == sorted([*plain, index])


def test_several_variants_and_nothing_else() -> None:
    files = ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"]
    with raises_line(CheckpointError, NAME, "unet", "fp16, non_ema", "--variant"):
        needed_files(files, where=NAME)
    assert needed_files(files, "non_ema") == files[1:]


def test_cache_of_one_revision_is_not_taken_for_another(hub: Hub, tmp_path: Path) -> None:
    assert fetch(hub.url, tmp_path, revision="v1").commit == COMMIT
    hub.stop()
    line = fetch(hub.url, tmp_path, revision="v2").line()
    assert "not in the local cache" in line
    assert fetch(hub.url, tmp_path, revision=COMMIT).commit == COMMIT


@pytest.mark.parametrize("name", ["someone/no-model", "no/such/folder", "bad name"])
def test_unknown_repository(hub: Hub, tmp_path: Path, name: str) -> None:
    line = fetch(hub.url, tmp_path, name=name).line()
    assert f"'{name}' is neither a folder here nor a public repository" in line


def test_unknown_revision(hub: Hub, tmp_path: Path) -> None:
    line = fetch(hub.url, tmp_path, revision="v9").line()
    assert f"'{NAME}' has no revision 'v9'" in line


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("where", ["listing_refusal", "file_refusal"])  # the hub lists gated repositories openly
def test_gated(hub: Hub, tmp_path: Path, status: int, where: str) -> None:
    setattr(hub, where, (status, "GatedRepo"))
    line = fetch(hub.url, tmp_path).line()
    assert f"'{NAME}' is gated" in line
    assert "hf auth login" in line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_hub_is_down_and_the_cache_is_empty(tmp_path: Path, environment: dict[str, str]) -> None:
    line = fetch(f"http://127.0.0.1:{free_port()}", tmp_path, **environment).line()
    for fragment in (NAME, "not in the local cache", "cannot be reached", "local folder", "demo"):
        assert fragment in line


def test_hub_has_an_error_of_its_own(hub: Hub, tmp_path: Path) -> None:
    hub.listing_refusal = (500, "")
    line = fetch(hub.url, tmp_path).line()
    assert "500" in line
    assert "cannot be reached" in line


def test_connection_breaks_in_the_middle(hub: Hub, tmp_path: Path) -> None:
    hub.breaks_at = "unet/diffusion_pytorch_model.safetensors"
    line = fetch(hub.url, tmp_path).line()
    for fragment in (NAME, "broke off", "again"):
        assert fragment in line
    got = set(hub.downloads) - {hub.breaks_at}
    hub.breaks_at = None
    hub.downloads.clear()
    whole = fetch(hub.url, tmp_path)
    assert whole.files() == {name: hub.files[name] for name in NEEDED}
    assert got.isdisjoint(hub.downloads)  # what was complete is kept
