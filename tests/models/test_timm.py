"""timm's pretrained weights: which models take them, and that both compute the same with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from deploy_kit.errors import MissingDependencyError, UserError
from deploy_kit.models import create_model, get_architecture, list_models, load_checkpoint
from deploy_kit.models.layers import randomize_
from deploy_kit.sources import hash_state, load_model
from deploy_kit.timm_models import create_timm_model
from tests.models.faithful import parameters, relative, run

NAMES = [name for name in list_models() if get_architecture(name).timm is not None]
LARGE = 30e6
"""Parameters from which on a comparison takes more than some seconds."""


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    try:
        create_timm_model("resnet18", num_classes=None, seed=0)
    except MissingDependencyError as error:
        pytest.skip(str(error))


def marked(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow) if parameters(name) > LARGE else name


@pytest.mark.parametrize("name", map(marked, NAMES))
def test_timm_computes_the_same_with_the_same_weights(name: str) -> None:
    architecture = get_architecture(name)
    assert architecture.timm is not None
    theirs, shape = create_timm_model(architecture.timm, num_classes=None, seed=0)
    assert type(theirs).__module__.startswith("timm.")
    assert shape == (1, 3, *architecture.input_size)
    randomize_(theirs, seed=0, gain=architecture.gain)
    ours = create_model(name)
    load_checkpoint(ours, theirs.state_dict())
    image = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    limit = 1e-6 if name.startswith("mobilevit") else 1e-9  # whose authors compute softmax in float32
    assert relative(run(ours.double(), image), run(theirs.double().eval(), image)) < limit


def test_timm_has_weights_of_these_names() -> None:
    import timm

    assert {get_architecture(name).timm for name in NAMES} <= set(timm.list_pretrained())


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process that finds random weights of two of timm's models on the hub."""
    files = {}
    for name, seed in (("efficientvit_m0.r224_in1k", 1), ("mobilenetv2_100.ra_in1k", 2)):
        model, _ = create_timm_model(name, num_classes=None, seed=0)
        randomize_(model, seed=seed, gain=1.4)
        files[f"/timm/{name}/resolve/main/model.safetensors"] = save(model.state_dict())

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        **{key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
    }
    server.shutdown()
    server.server_close()


LOAD = """
import json, sys
from deploy_kit import load_model
from deploy_kit.errors import UserError
from deploy_kit.sources import hash_state
try:
    loaded = load_model(sys.argv[1], weights="timm", **json.loads(sys.argv[2]))
except UserError as error:
    sys.exit(f"{error} fix: {error.fix}")
weights = loaded.record.weights
print(json.dumps([weights.path, weights.sha256, weights.untrained, weights.description, loaded.preprocessing.resize]))
"""


def load(environment: dict[str, str], model: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOAD, model, json.dumps(options)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_fetches_the_weights_and_says_whose_they_are(hub: dict[str, str]) -> None:
    ended = load(hub, "efficientvit_m0")
    assert ended.returncode == 0, ended.stderr
    path, sha256, untrained, description, resize = json.loads(ended.stdout)
    assert (path, untrained, resize) == ("efficientvit_m0.r224_in1k", False, 256)
    theirs, _ = create_timm_model("efficientvit_m0", num_classes=None, seed=0)
    randomize_(theirs, seed=1, gain=1.4)
    ours = create_model("efficientvit_m0")
    load_checkpoint(ours, theirs.state_dict())
    assert sha256 == hash_state(ours)
    assert description == f"timm's efficientvit_m0.r224_in1k, sha256 {sha256[:12]}"


@pytest.mark.slow
def test_an_artifact_of_fetched_weights_is_verified_with_them(hub: dict[str, str], tmp_path: Path) -> None:
    def deploykit(*arguments: str) -> str:
        program = Path(sys.executable).with_name("deploykit")
        ended = subprocess.run(
            [program, *arguments], env=hub, cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    printed = deploykit("export", "timm/mobilenetv2_100", "-t", "onnx", "--weights", "timm", "--input-size", "64")
    assert "not trained" not in printed
    manifest = json.loads((tmp_path / "artifacts/timm_mobilenetv2_100/onnx/manifest.json").read_text())
    assert manifest["model"]["weights"]["path"] == "mobilenetv2_100.ra_in1k"
    assert manifest["model"]["weights"]["seed"] is None
    assert manifest["preprocessing"]["resize"] == round(64 * 256 / 224)
    deploykit("verify", "artifacts/timm_mobilenetv2_100/onnx")


def test_weights_that_cannot_be_fetched_are_one_error(hub: dict[str, str]) -> None:
    ended = load(hub, "deit_tiny")
    assert ended.returncode == 1
    assert "timm cannot fetch its weights of deit_tiny_patch16_224.fb_in1k" in ended.stderr
    assert "--weights" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("edgevit_xxs", {}, "no weights that make edgevit_xxs what its authors published"),
        ("flatformer", {}, "no weights that make flatformer"),
        ("package:model", {"input_size": "1x3x8x8"}, "timm has no weights for 'package:model'"),
        ("model.pt2", {}, "timm has no weights for 'model.pt2'"),
        ("timm/resnet18", {"num_classes": 3}, "weights are those of their own classes"),
        ("timm/resnet18.nobody", {}, "timm cannot fetch its weights of resnet18.nobody"),
    ],
)
def test_refuses_where_timm_has_none(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_model(source, weights="timm", **options)
