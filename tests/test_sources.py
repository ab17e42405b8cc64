from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

from deploy_kit import export, load_model, verify
from deploy_kit.errors import MissingDependencyError, UserError
from deploy_kit.parity.inputs import InputType
from deploy_kit.pt2 import RefusedError, load_program
from deploy_kit.sources import artifact_name, hash_state, parse_inputs, parse_shapes
from tests.support import TINY, TINY_SIZE, TOKENS, TOKENS_SIZE, Tiny, Tokens, TwoInputs, random, tiny

IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("edgevit_s", "edgevit_s"),
        ("my.package:make_net", "my.package.make_net"),
        ("timm/vit_tiny", "timm_vit_tiny"),
        ("/some/where/my net.pt2", "my_net"),
    ],
)
def test_a_source_has_one_name_in_its_artifacts(source: str, name: str) -> None:
    assert artifact_name(source) == name
    assert artifact_name(TINY) == load_model(TINY, input_size=TINY_SIZE).name


def test_a_reference_model_is_described() -> None:
    loaded = load_model("edgevit_xxs", input_size="64x96", activation="relu", num_classes=7, seed=3)
    assert loaded.input_shapes == [(1, 3, 64, 96)]
    assert loaded.record.weights.description == "random (seed 3): not trained"
    assert (loaded.record.activation, loaded.record.num_classes) == ("relu", 7)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing.crop == (64, 96)
    assert loaded.module(torch.zeros(1, 3, 64, 96)).shape == (1, 7)


def test_a_reference_model_has_its_published_size_and_its_seeded_weights() -> None:
    loaded = load_model("edgevit_xxs")
    assert loaded.input_shapes == [(1, 3, 224, 224)]
    assert loaded.record.weights.sha256 == load_model("edgevit_xxs", seed=0).record.weights.sha256
    assert loaded.record.weights.sha256 != load_model("edgevit_xxs", seed=1).record.weights.sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "edgevit_xxl"}, "no model called 'edgevit_xxl'"),
        ({"source": "edgevit_xxs", "input_size": "100"}, "cannot take 100x100 images"),
        ({"source": "edgevit_xxs", "input_size": "1x1x64x64"}, "takes one image"),
        ({"source": "edgevit_xxs", "input_size": "0x64"}, "is not a shape"),
        ({"source": "edgevit_xxs", "input_size": "224,224"}, "takes one image"),
        ({"source": "edgevit_xxs", "input_size": "big"}, "is not a shape"),
        ({"source": "edgevit_xxs", "input_size": "1x3x224x224:int64"}, "'1x3x224x224:int64' has a type"),
        ({"source": "flatformer", "input_size": "288:int64"}, "'288:int64' has a type"),
        ({"source": "edgevit_xxs", "activation": "gelo"}, "no activation called 'gelo'"),
        ({"source": "edgevit_xxs", "num_classes": 0}, "at least one class"),
        ({"source": "edgevit_xxs", "num_classes": 10**12}, "too large for this machine's memory"),
        ({"source": "edgevit_xxs", "seed": -1}, "-1 is no seed"),
        ({"source": TINY, "input_size": TINY_SIZE, "seed": 2**63}, "is no seed"),
        ({"source": TINY, "input_size": "1x3x3200000x3200000"}, "1x3x3200000x3200000 is too large"),
        ({"source": TINY, "input_size": f"1x3x32x{10**20}"}, "is too large for this machine's memory"),
        ({"source": TINY}, "input shape .* is not known"),
        ({"source": TINY, "input_size": "32"}, "not a whole shape"),
        ({"source": TINY, "input_size": "1x3x30x2"}, "does not run on an input of 1x3x30x2"),
        ({"source": TINY, "input_size": TINY_SIZE, "activation": "relu"}, "does not take --activation"),
        ({"source": "no.such.module:tiny", "input_size": TINY_SIZE}, "cannot be imported"),
        ({"source": "tests.support:large", "input_size": TINY_SIZE}, "no function called 'large'"),
        ({"source": "tests.support:TINY", "input_size": TINY_SIZE}, "no function called 'TINY'"),
        ({"source": "tests.support:once", "input_size": TINY_SIZE}, "without arguments"),
        ({"source": "deploy_kit.models:list_models", "input_size": TINY_SIZE}, "returned a list"),
        ({"source": "nothing.pt2"}, "no exported program 'nothing.pt2'"),
        ({"source": "model.pt2", "input_size": "224"}, "does not take --input-size"),
        ({"source": "timm/resnet18", "activation": "relu"}, "does not take --activation"),
    ],
)
def test_what_cannot_be_loaded_is_one_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_model(**options)  # type: ignore[arg-type]


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        load_model("edgevit-xs")
    assert "edgevit_xs" in caught.value.fix


def test_a_callable_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(
        "import torch\nclass Small(torch.nn.Linear):\n    def __init__(self): super().__init__(4, 2)\n"
        "def broken(): raise KeyError('stem')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    loaded = load_model("my_models:Small", input_size="1x4")
    assert loaded.name == "my_models.Small"
    assert loaded.record.weights.sha256 == load_model("my_models:Small", input_size="1x4").record.weights.sha256
    with pytest.raises(UserError, match=r"my_models:broken.*KeyError.*stem"):
        load_model("my_models:broken", input_size="1x4")
    (tmp_path / "half_written.py").write_text("def model(:\n")
    with pytest.raises(UserError, match="half_written"):
        load_model("half_written:model", input_size="1x4")


def test_an_image_that_no_memory_holds_is_one_error() -> None:
    loaded = load_model("edgevit_xxs", input_size="3200000x3200000")
    with pytest.raises(UserError, match="1x3x3200000x3200000 is too large for this machine's memory"):
        loaded.capture()


def test_code_that_exits_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exits_early.py").write_text("import sys\nsys.exit('usage: train.py')\n")
    (tmp_path / "exits_late.py").write_text(
        "import sys, torch\ndef model(): sys.exit(3)\n"
        "class Model(torch.nn.Module):\n    def forward(self, x): sys.exit()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match=r"cannot be imported: SystemExit: usage: train\.py"):
        load_model("exits_early:model", input_size="1x4")
    with pytest.raises(UserError, match=r"failed: SystemExit: 3 \(.*exits_late.py, line 2\)"):
        load_model("exits_late:model", input_size="1x4")
    with pytest.raises(UserError, match="does not run on an input of 1x4: SystemExit"):
        load_model("exits_late:Model", input_size="1x4")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_other_than_float32_are_answered_with_float(dtype: torch.dtype) -> None:
    with pytest.raises(UserError, match="does not run") as caught:
        load_model(tiny().to(dtype), input_size=TINY_SIZE)
    assert ".float()" in caught.value.fix


def test_a_module_in_memory_is_taken_in_evaluation_mode() -> None:
    loaded = load_model(random(Tiny()).train(), input_size=TINY_SIZE)
    assert not loaded.module.training
    assert loaded.name == "Tiny"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_is_loaded_and_hashed(suffix: str, tmp_path: Path) -> None:
    state = random(Tiny(), seed=5).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = load_model(TINY, input_size=TINY_SIZE, weights=path)
    assert torch.equal(loaded.module.state_dict()["head.weight"], state["head.weight"])
    assert loaded.record.weights.kind == "checkpoint"
    assert loaded.record.weights.sha256 == hash_state(random(Tiny(), seed=5))
    assert loaded.record.weights.description.startswith(f"weights{suffix}, sha256 ")


def test_a_hash_depends_on_names_shapes_types_and_values() -> None:
    def of(**tensors: Tensor) -> str:
        module = nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        return hash_state(module)

    assert of(a=torch.ones(4)) == of(a=torch.ones(4))
    others = [of(b=torch.ones(4)), of(a=torch.ones(2, 2)), of(a=torch.ones(4).int()), of(a=torch.zeros(4))]
    assert len({of(a=torch.ones(4)), *others}) == 5


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("224", [(224,)]),
        ("1x3x64x96", [(1, 3, 64, 96)]),
        ("1x6, 1x5", [(1, 6), (1, 5)]),
        (224, [(224,)]),
        ((1, 3, 8, 8), [(1, 3, 8, 8)]),
    ],
)
def test_shapes_are_parsed(text: str | int | tuple[int, ...], shapes: list[tuple[int, ...]]) -> None:
    assert parse_shapes(text) == shapes


@pytest.mark.parametrize(
    "text", ["", "x", "1x", "1x-3", "1,,2", "3.5", "1x0x2", "1x00", "\u0661x\u0662", "1x" + "9" * 5000]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a shape"):
        parse_shapes(text)


def test_inputs_have_types_and_bounds() -> None:
    assert parse_inputs("1x3x64x96, 1x12:int64:100,2:int32, 1x4:float32") == [
        ((1, 3, 64, 96), InputType()),
        ((1, 12), InputType(dtype="int64", bound=100)),
        ((2,), InputType(dtype="int32")),
        ((1, 4), InputType()),
    ]


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("1x12:int16", "an input of the type 'int16'", "1x12:int64:100"),
        ("1x12:", "an input of the type ''", "1x12:int64:100"),
        ("1x12:Int64:5", "an input of the type 'Int64'", "1x12:int64:100"),
        ("1x12:float32:5", "only integers have a bound", "1x12:float32"),
        ("1x12:int64:", "'' is no bound of int64", "1x12:int64:100"),
        ("1x12:int64:0", "'0' is no bound of int64", "1x12:int64:100"),
        ("1x12:int64:-1", "'-1' is no bound of int64", "1x12:int64:100"),
        ("1x12:int64:many", "'many' is no bound of int64", "1x12:int64:100"),
        ("1x12:int64:5:6", "'5:6' is no bound of int64", "1x12:int64:100"),
        (f"1x12:int32:{2**31}", "is no bound of int32", "1 to 2147483647"),
        ("1x12:int64:" + "9" * 20, "is no bound of int64", "1 to 9223372036854775807"),
        ("big:int64", "'big' is not a shape", "1x3x224x224"),
    ],
)
def test_what_is_no_type_or_bound_is_refused(text: str, message: str, fix: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_model(TOKENS, input_size=text)
    assert fix in caught.value.fix


def test_a_model_of_your_own_may_take_integers() -> None:
    loaded = load_model(TOKENS, input_size=TOKENS_SIZE)
    assert loaded.input_shapes == [(1, 12)]
    assert loaded.record.input_types == [InputType(dtype="int64", bound=50)]
    assert loaded.preprocessing is None
    assert loaded.capture().example_inputs[0].dtype == torch.int64
    assert loaded.capture(dynamic_batch=True).module(torch.tensor([[49] * 12] * 3)).shape == (3, 10)
    assert loaded.record.input_size == TOKENS_SIZE
    assert load_model(TOKENS, input_size=loaded.record.input_size).record == loaded.record


def test_integers_and_floats_are_drawn_as_each_input_says() -> None:
    loaded = load_model(random(Looks()), input_size="4x6,5:int32:4")
    assert loaded.draw is not None
    floats, rows = loaded.draw(0)
    assert (floats.dtype, rows.dtype, rows.max()) == (torch.float32, torch.int32, 3)
    assert loaded.record.input_size == "4x6,5:int32:4"
    assert load_model(random(TwoInputs()), input_size="1x6:float32,1x5").record.input_types == []


@pytest.mark.parametrize(
    ("size", "said"), [("1x12:int64", "1x12:int64 with values of 0 to 9"), ("1x12:int64:5", "values of 0 to 4")]
)
def test_a_value_that_a_model_does_not_take_is_answered_with_the_bound(size: str, said: str) -> None:
    model = Tokens()
    model.words = nn.Embedding(4, 16)
    with pytest.raises(UserError, match=f"does not run on an input of .*{said}: IndexError") as caught:
        load_model(model, input_size=size)
    assert "1x12:int64:100" in caught.value.fix


def test_floats_for_a_model_that_takes_integers_are_answered_with_the_type() -> None:
    with pytest.raises(UserError, match="does not run on an input of 1x12: RuntimeError") as caught:
        load_model(TOKENS, input_size="1x12")
    assert "1x12:int64:100" in caught.value.fix


def test_timm_that_is_missing_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError) as caught:
        load_model("timm/resnet18")
    assert "pip install" in caught.value.fix
    assert "timm" in caught.value.fix


def save(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, **options: object) -> Path:
    torch.export.save(torch.export.export(model, inputs, **options), path)  # type: ignore[arg-type]
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return save(tiny(), (IMAGE,), tmp_path / "tiny.pt2")


def test_an_exported_program_is_used_as_it_is(program: Path) -> None:
    loaded = load_model(str(program))
    assert loaded.name == "tiny"
    assert loaded.input_shapes == [(1, 3, 32, 32)]
    assert torch.equal(loaded.module(IMAGE), tiny()(IMAGE))
    assert torch.allclose(loaded.capture().module(IMAGE), tiny()(IMAGE))
    with pytest.raises(UserError, match="has the shapes that it was exported with"):
        loaded.capture(dynamic_batch=True)


def test_an_exported_program_with_a_free_batch_has_its_example_shape(tmp_path: Path) -> None:
    path = save(tiny(), (IMAGE.expand(2, -1, -1, -1),), tmp_path / "m.pt2", dynamic_shapes=({0: Dim("batch", min=1)},))
    loaded = load_model(str(path))
    assert loaded.input_shapes == [(2, 3, 32, 32)]
    assert loaded.capture().module(loaded.capture().example_inputs[0]).shape == (2, 10)


def test_an_exported_program_may_have_several_inputs_and_computed_shapes(tmp_path: Path) -> None:
    class Padded(TwoInputs):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            rows = nn.functional.pad(x, (0, 0, 0, x.shape[0] // 2 + 1))
            return {"rows": rows, "sum": super().forward(x, y)[0]}

    batch = Dim("batch", min=2, max=64)
    shapes = ({0: batch}, {0: batch})
    path = save(random(Padded()), (torch.zeros(4, 6), torch.zeros(4, 5)), tmp_path / "two.pt2", dynamic_shapes=shapes)
    loaded = load_model(str(path))
    assert loaded.input_shapes == [(4, 6), (4, 5)]
    assert loaded.preprocessing is None


class Looks(nn.Module):
    """Rows of a table, for floats and for integers that have to be valid indices."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 6)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        return x[rows] + self.table(rows)


def test_a_program_may_take_integers_which_stay_as_valid_as_its_example(tmp_path: Path) -> None:
    rows = torch.tensor([3, 1, 1, 0, 3])
    path = save(random(Looks()), (torch.zeros(4, 6), rows), tmp_path / "rows.pt2")
    loaded = load_model(str(path))
    assert loaded.draw is not None
    first, second = loaded.draw(0), loaded.draw(1)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    assert first[1].sort().values.equal(second[1].sort().values)
    assert first[1].sort().values.equal(rows.sort().values)
    artifact = export(loaded, "onnx", out=tmp_path, options={"simplify": False})
    assert [(record.dtype, record.shape) for record in artifact.manifest.inputs] == [
        ("float32", [4, 6]),
        ("int64", [5]),
    ]
    assert verify(artifact).passed
    with pytest.raises(UserError, match="rows takes no batch"):
        export(loaded, "onnx", out=tmp_path / "batch", options={"dynamic_batch": True})


def test_a_program_that_takes_integers_needs_its_example_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = torch.export.export(random(Looks()), (torch.zeros(4, 6), torch.tensor([3, 1])))
    program.example_inputs = None
    path = tmp_path / "rows.pt2"
    torch.export.save(program, path)
    with pytest.raises(UserError, match="does not hold the example inputs"):
        load_model(str(path))


def test_inputs_of_other_types_are_refused(tmp_path: Path) -> None:
    path = save(nn.Identity(), (torch.zeros(1, 2, dtype=torch.float64),), tmp_path / "double.pt2")
    with pytest.raises(UserError, match="neither float32 nor integers"):
        load_model(str(path))


def test_a_reference_model_that_takes_no_image_makes_its_own_inputs() -> None:
    loaded = load_model("flatformer", input_size=288)
    assert loaded.input_shapes == [(288, 128)] * 2 + [(288,)] * 6
    assert loaded.preprocessing is None
    assert [x.dtype for x in loaded.capture().example_inputs] == [torch.float32] * 2 + [torch.int64] * 6
    shapes = ",".join("x".join(map(str, shape)) for shape in loaded.input_shapes)
    assert load_model("flatformer", input_size=shapes).record == loaded.record
    for size, message in (("300", "cannot take 300 pillars"), ("288x128,144", "takes inputs of 288x128,288x128,288,")):
        with pytest.raises(UserError, match=message):
            load_model("flatformer", input_size=size)
    with pytest.raises(UserError, match="flatformer for 144000000000000 pillars is too large"):
        load_model("flatformer", input_size=144 * 10**12)


class Paired(nn.Module):
    def forward(self, pair: Any) -> Tensor:
        first, second = pair.values() if isinstance(pair, dict) else pair
        return first + second


class Named(nn.Module):
    def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
        return x + y


class Constant(nn.Module):
    def forward(self) -> Tensor:
        return torch.ones(2)


@pytest.mark.parametrize(
    ("model", "inputs", "keywords"),
    [
        (Paired(), ((IMAGE, IMAGE),), {}),
        (Paired(), ({"a": IMAGE, "b": IMAGE},), {}),
        (Paired(), ([IMAGE, IMAGE],), {}),
        (Named(), (IMAGE,), {"y": IMAGE}),
        (Constant(), (), {}),
    ],
)
def test_inputs_in_containers_are_refused(model: nn.Module, inputs: Any, keywords: Any, tmp_path: Path) -> None:
    path = save(model, inputs, tmp_path / "m.pt2", kwargs=keywords)
    with pytest.raises(UserError, match="does not take its inputs as positional tensors") as caught:
        load_model(str(path))
    assert "forward(x, y)" in caught.value.fix


def test_a_program_that_is_not_in_this_folder_says_where_to_run() -> None:
    with pytest.raises(UserError, match=r"there is no exported program 'nothing\.pt2'") as caught:
        load_model("nothing.pt2")
    assert "run in the folder that it was exported from" in caught.value.fix


@pytest.mark.parametrize("content", [b"", b"not a program", b"PK\x03\x04" + b"\0" * 300])
def test_a_file_that_is_no_program_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not an exported program that can be read"):
        load_model(str(path))


def test_a_truncated_program_is_refused(program: Path) -> None:
    program.write_bytes(program.read_bytes()[:-2000])
    with pytest.raises(UserError, match="is not an exported program that can be read"):
        load_model(str(program))


class Evil:
    """Unpickling it makes a folder called ``pwned`` in the current one."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("pwned",)


def rewrite(program: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> None:
    """Change the records of a saved program by their names below its top folder."""
    with zipfile.ZipFile(program) as old:
        records = {name: old.read(name) for name in old.namelist()}
    top = next(iter(records)).split("/")[0]
    with zipfile.ZipFile(program, "w", zipfile.ZIP_STORED) as new:
        for name, content in records.items():
            new.writestr(name, change(name.removeprefix(f"{top}/"), content))
        for name, content in (extra or {}).items():
            new.writestr(f"{top}/{name}", content)


def evil_sample_inputs(program: Path, scratch: Path) -> None:
    torch.save((Evil(),), scratch / "evil.pt")
    evil = (scratch / "evil.pt").read_bytes()
    rewrite(program, lambda name, content: evil if name.startswith("data/sample_inputs") else content)


def evil_weights(program: Path, scratch: Path) -> None:
    torch.save(Evil(), scratch / "evil.pt")
    evil = (scratch / "evil.pt").read_bytes()

    def change(name: str, content: bytes) -> bytes:
        if name == "data/weights/weight_0":
            return evil
        if name == "data/weights/model_weights_config.json":
            config = json.loads(content)
            for entry in config["config"].values():
                entry["use_pickle"] = entry["use_pickle"] or entry["path_name"] == "weight_0"
            return json.dumps(config).encode()
        return content

    rewrite(program, change)


def evil_legacy_weights(program: Path, scratch: Path) -> None:
    torch.save({"weight": Evil()}, scratch / "evil.pt")
    rewrite(program, lambda name, content: content, {"data/weights/model.pt": (scratch / "evil.pt").read_bytes()})


def evil_constant(program: Path, scratch: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name == "data/constants/model_constants_config.json":
            entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"evil": entry}}).encode()
        return content

    rewrite(program, change, {"data/constants/opaque_obj_0": pickle.dumps(Evil())})


def evil_native_library(program: Path, scratch: Path) -> None:
    rewrite(program, lambda name, content: content, {"data/aotinductor/model/evil.so": b"\x7fELF"})


def in_model(old: str, new: str) -> Callable[[Path, Path], None]:
    def spoil(program: Path, scratch: Path) -> None:
        def change(name: str, content: bytes) -> bytes:
            if name != "models/model.json":
                return content
            assert old in content.decode()
            return content.decode().replace(old, new).encode()

        rewrite(program, change)

    return spoil


EVIL = {
    "sample inputs": evil_sample_inputs,
    "weights": evil_weights,
    "legacy weights": evil_legacy_weights,
    "constant": evil_constant,
    "native library": evil_native_library,
    "operator": in_model('"torch.ops.aten.relu.default"', '"torch.serialization.os.mkdir"'),
    "library loader": in_model('"torch.ops.aten.relu.default"', '"torch.ops.load_library"'),
    "dunder": in_model('"torch.ops.aten.relu.default"', '"torch.ops.aten.__class__.mro"'),
    "container": in_model('\\"builtins.tuple\\", \\"context\\": \\"null\\"', '\\"default_factory_module\\": \\"os\\"'),
    "name": in_model('"stem.weight"', '"stem\\"+print(1)+\\".weight"'),
}


@pytest.mark.parametrize("kind", EVIL)
def test_a_program_that_would_run_code_is_refused(
    kind: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    EVIL[kind](program, tmp_path)
    with pytest.raises(UserError, match="holds more than tensors and operators, and reading it could run code"):
        load_model(str(program))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').mkdir('pwned')",
        "exec('pwned')",
        "Symbol('s0').func",
        "(exec)('a')",
        "[x for x in s0]",
        "lambda: 1",
        "Symbol('__import__(1)')",
    ],
)
def test_a_shape_that_is_more_than_arithmetic_is_refused(
    expression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tiny(), (IMAGE.expand(2, -1, -1, -1),), tmp_path / "m.pt2", dynamic_shapes=({0: Dim("batch", min=2)},))
    text = zipfile.ZipFile(path).read("m/models/model.json").decode()
    shape = next(part for part in text.split('"') if part.startswith("Symbol("))
    in_model(json.dumps(shape), json.dumps(expression))(path, tmp_path)
    with pytest.raises(RefusedError):
        load_program(path)
    assert not (tmp_path / "pwned").exists()


def test_reading_a_program_leaves_the_environment_alone(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    load_program(program)
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
