"""A tiny sharded model on disk without torch, and a Hub on loopback that serves it."""

from __future__ import annotations

import json
import re
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

LAYERS, HIDDEN, VOCABULARY = 3, 8, 16
COMMIT = "0123456789abcdef0123456789abcdef01234567"

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
}


def write_safetensors(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Float32 tensors of the given shapes, all zero."""
    table, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(table).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(end))


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """One file for the embedding, one for each layer, one for norm and output head."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer_config.json").write_text("{}")
    files = {"embedding.safetensors": {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        files[f"layer-{layer}.safetensors"] = {
            f"{prefix}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": (2 * HIDDEN, HIDDEN),
        }
    files["end.safetensors"] = {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    weight_map = {}
    for file, shapes in files.items():
        write_safetensors(directory / file, shapes)
        weight_map |= dict.fromkeys(shapes, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


class LoopbackHub:
    """The three requests of the Hub that a download needs, for one repository at one commit."""

    def __init__(self, id: str, directory: Path) -> None:
        self.id = id
        self.directory = directory
        self.commit = COMMIT
        self.downloads: Counter[str] = Counter()
        """Whole or resumed bodies sent, by file name; range requests of a few bytes are not counted."""
        self.ranges: list[tuple[str, int]] = []
        """(file, first byte) of every ranged request."""
        self.cut_after: dict[str, int] = {}
        """Bytes after which the connection drops, by file, once each."""
        self.refuse_from: int | None = None
        """Requests that begin at this byte or later fail."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.split("?")[0]
        if path.startswith(f"/api/models/{self.id}"):
            names = sorted(file.name for file in self.directory.iterdir())
            info = {"id": self.id, "sha": self.commit, "siblings": [{"rfilename": name} for name in names]}
            self._send(request, 200, json.dumps(info).encode(), {"Content-Type": "application/json"}, body)
            return
        match = re.fullmatch(f"/{self.id}/resolve/(?:main|{COMMIT})/([^/]+)", path)
        file = self.directory / match[1] if match else None
        if file is None or not file.is_file():
            code = "EntryNotFound" if match else "RepoNotFound"
            self._send(request, 404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, body)
            return
        data = file.read_bytes()
        headers = {"ETag": f'"{file.name}-{len(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        status, start, stop = 200, 0, len(data)
        if wanted and self.refuse_from is not None and int(wanted[1]) >= self.refuse_from:
            self._send(request, 503, b"", {}, body)
            return
        if wanted and body:
            status, start = 206, int(wanted[1])
            stop = min(int(wanted[2]) + 1, len(data)) if wanted[2] else len(data)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self.ranges.append((file.name, start))
        if body and stop == len(data):
            self.downloads[file.name] += 1
        self._send(
            request, status, data[start:stop], headers, body, self.cut_after.pop(file.name, None) if body else None
        )

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        body: bool,
        cut_after: int | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data[:cut_after])


@pytest.fixture
def hub(model_directory: Path) -> Iterator[LoopbackHub]:
    server = LoopbackHub("somebody/tiny", model_directory)
    yield server
    server.close()


WriteGguf = Callable[..., Path]


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGguf:
    """Writes a small Llama as GGUF, its tensors random in float32, and returns the file."""

    def write(name: str = "tiny.gguf", architecture: str = "llama") -> Path:
        import numpy as np
        from gguf import GGUFWriter

        file = tmp_path / name
        writer = GGUFWriter(file, architecture)
        writer.add_block_count(1)
        writer.add_context_length(32)
        writer.add_embedding_length(8)
        writer.add_feed_forward_length(16)
        writer.add_head_count(2)
        writer.add_head_count_kv(1)
        writer.add_rope_dimension_count(4)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(261)
        alphabet = [chr(0x100 + n) for n in range(256)]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list([*alphabet, "<s>", "</s>", "<unk>", "<pad>", alphabet[0] + alphabet[1]])
        writer.add_token_types([1] * 256 + [3] * 4 + [1])
        writer.add_token_merges([f"{alphabet[0]} {alphabet[1]}"])
        writer.add_bos_token_id(256)
        writer.add_eos_token_id(257)
        generator = np.random.default_rng(1)
        shapes = {
            "token_embd": (261, 8),
            "output_norm": (8,),
            "blk.0.attn_norm": (8,),
            "blk.0.attn_q": (8, 8),
            "blk.0.attn_k": (4, 8),
            "blk.0.attn_v": (4, 8),
            "blk.0.attn_output": (8, 8),
            "blk.0.ffn_norm": (8,),
            "blk.0.ffn_gate": (16, 8),
            "blk.0.ffn_up": (16, 8),
            "blk.0.ffn_down": (8, 16),
        }
        for tensor, shape in shapes.items():
            writer.add_tensor(f"{tensor}.weight", generator.standard_normal(shape, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    return write
