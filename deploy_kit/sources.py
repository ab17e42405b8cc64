"""Models from anywhere: a reference name, a callable, an exported program, timm."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import logging
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy_kit.capture import capture, from_program
from deploy_kit.embedding import WithPreprocessing
from deploy_kit.errors import UserError
from deploy_kit.graph import Graph
from deploy_kit.manifest import ModelRecord, WeightsRecord
from deploy_kit.models import create_model, get_architecture, load_checkpoint
from deploy_kit.models.registry import Architecture, check_input_size, check_seed, within_memory
from deploy_kit.parity.inputs import Draw, InputType, noise, pixels, typed
from deploy_kit.parity.reference import one_thread
from deploy_kit.preprocessing import Preprocessing
from deploy_kit.timm_models import create_timm_model, fetch_timm_weights, timm_name, timm_preprocessing

TIMM = "timm"
"""What stands for a checkpoint file: the pretrained weights that timm fetches."""

PROGRAM = ".pt2"
"""How the name of a file ends that holds an exported program."""

INTEGERS = (torch.int32, torch.int64)
"""What a model may take beside float32."""

TYPES: dict[str, InputType] = {
    kind.dtype: kind for kind in (InputType(), InputType(dtype="int32"), InputType(dtype="int64"))
}
"""What ``--input-size`` calls the type of an input."""

TYPED = "1x12:int64:100"
"""An input with a type and a bound, for error messages."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be exported: the module as it was given, and all that is known about it.

    ``program`` is set for a model that came as an exported program, whose graph is used as it is. ``draw`` is set for
    one whose inputs noise cannot stand for, such as indices. ``graph`` is set for one whose graph was changed after it
    was captured (see `with_graph`).
    """

    module: nn.Module
    record: ModelRecord
    preprocessing: Preprocessing | None
    program: torch.export.ExportedProgram | None = None
    draw: Draw | None = None
    graph: Graph | None = None

    @property
    def name(self) -> str:
        """The model's name, fit for a folder."""
        return self.record.name

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shape of each input, batch included."""
        shapes = [tuple(shape) for shape in self.record.input_shapes]
        if self.record.embeds_preprocessing:
            return [(batch, height, width, channels) for batch, channels, height, width in shapes]
        return shapes

    def capture(self, *, dynamic_batch: bool = False) -> Graph:
        """The model's graph; see `deploy_kit.capture.capture`."""
        if self.graph is not None:
            if dynamic_batch:
                raise UserError(
                    "a graph that was changed has the batch it was captured with", fix="leave the batch fixed"
                )
            return self.graph.copy()
        if self.draw is not None:
            inputs = self.draw(0)
        else:
            inputs = _example_inputs(self.input_shapes, pixels if self.record.embeds_preprocessing else noise)
        if self.draw is not None and dynamic_batch and not self.record.input_types:
            raise UserError(f"{self.name} takes no batch", fix="leave out --dynamic-batch")
        if self.program is None:
            with _quietly():
                return capture(self.module, inputs, dynamic_batch=dynamic_batch)
        if dynamic_batch:
            raise UserError(
                "an exported program has the shapes that it was exported with",
                fix="export it with a dynamic batch dimension yourself, or pass the model as package.module:callable",
            )
        return from_program(self.program, inputs)


def with_graph(loaded: LoadedModel, graph: Graph) -> LoadedModel:
    """The model that computes what ``graph`` does, a changed graph of ``loaded``: its reference too."""
    return replace(loaded, module=graph.module, program=None, graph=graph)


def embed_preprocessing(loaded: LoadedModel) -> LoadedModel:
    """The same model for uint8 images [B, H, W, C], which it scales, normalises and orders itself.

    Raises:
        UserError: the model takes something else than one batch of images.
    """
    preprocessing = loaded.preprocessing
    if preprocessing is None:
        raise UserError(
            f"{loaded.name} does not take one batch of images, so there is no preprocessing to embed",
            fix="leave out --embed-preprocessing",
        )
    return replace(
        loaded,
        module=WithPreprocessing(loaded.module, preprocessing),
        record=loaded.record.model_copy(update={"embeds_preprocessing": True}),
        preprocessing=preprocessing.inside(),
        program=None,
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch from printing whole graphs where it cannot follow a model; the error says what is needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def load_model(
    source: str | nn.Module,
    *,
    weights: str | Path | None = None,
    input_size: str | int | tuple[int, ...] | None = None,
    activation: str | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Load a model by name, from a callable, a file or timm, or take a module as it is.

    Args:
        source: ``edgevit_s``, ``package.module:callable``, ``path/to/model.pt2``, ``timm/NAME``, or a module.
        weights: a checkpoint file to load into it, or ``timm`` for the pretrained weights that timm fetches.
        input_size: ``224``, ``224x288`` or ``1x3x224x224``; several inputs are separated by commas. Those of a
            callable or a module may have a type, and integers a bound: ``1x12:int64:100`` holds 0 to 99.
        activation: of a reference model.
        num_classes: of a reference model or a timm one.
        seed: of random weights.

    Raises:
        UserError: nothing there by that name, or options that it does not take.
    """
    check_seed(seed)
    weights = TIMM if str(weights) == TIMM else weights
    if isinstance(source, nn.Module):
        return _from_module(source, type(source).__name__, "module", "callable", input_size, weights, seed)
    options = {"activation": activation, "num_classes": num_classes}
    if weights == TIMM and (source.endswith(PROGRAM) or ":" in source):
        raise UserError(
            f"timm has no weights for {source!r}", fix="pass a checkpoint file, or a reference model or a timm one"
        )
    if source.endswith(PROGRAM):
        _refuse(source, {**options, "weights": weights, "input_size": input_size})
        return _from_pt2(Path(source))
    if source.startswith("timm/"):
        _refuse(source, {"activation": activation})
        return _from_timm(source, input_size, num_classes, weights, seed)
    if ":" in source:
        _refuse(source, options)
        module = _call(source, seed)
        return _from_module(module, source, source, "callable", input_size, weights, seed)
    return _from_registry(source, input_size, activation, num_classes, weights, seed)


def artifact_name(source: str) -> str:
    """What a model is called in its artifacts and their folders, by the source that `load_model` is given."""
    text = Path(source).stem if source.endswith(PROGRAM) else source.replace(":", ".")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._") or "model"


def _refuse(source: str, options: dict[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{source!r} does not take {' and '.join(given)}", fix="leave it out")


def _from_registry(
    name: str,
    input_size: Any,
    activation: str | None,
    num_classes: int | None,
    weights: str | Path | None,
    seed: int,
) -> LoadedModel:
    architecture = get_architecture(name)
    if architecture.draw is not None:
        return _from_drawn(architecture, input_size, activation, num_classes, weights, seed)
    shape = (1, 3, *architecture.input_size)
    if input_size is not None:
        shapes = parse_shapes(input_size)
        if len(shapes) != 1 or len(shapes[0]) not in (1, 2, 4) or (len(shapes[0]) == 4 and shapes[0][1] != 3):
            raise UserError(f"{name} takes one image, not {input_size!r}", fix="pass 224, 224x288 or 1x3x224x224")
        given = shapes[0]
        shape = given if len(given) == 4 else (1, 3, given[0], given[-1])
        check_input_size(architecture, shape[2:])
    model = create_model(name, num_classes=num_classes, input_size=shape[2:], activation=activation, seed=seed)
    activation, num_classes = activation or architecture.activation, num_classes or architecture.num_classes
    preprocessing = architecture.preprocessing
    trained = architecture.trained
    as_trained = (activation, num_classes) == (architecture.activation, architecture.num_classes)
    if weights == TIMM:
        state, preprocessing = fetch_timm_weights(_timm_name(architecture))
        load_checkpoint(model, state)
        described = WeightsRecord(kind="timm", sha256=hash_state(model), path=architecture.timm)
    elif trained is not None and weights is None and as_trained:
        load_checkpoint(model, trained.path)
        described = WeightsRecord(kind="package", sha256=hash_state(model))
    else:
        described = _weights(model, "random", weights, seed)
    record = ModelRecord(
        name=name,
        source=name,
        activation=activation,
        num_classes=num_classes,
        input_shapes=[list(shape)],
        weights=described,
    )
    return LoadedModel(model, record, preprocessing.resized(shape[2:]))


def _timm_name(architecture: Architecture) -> str:
    if architecture.timm is None:
        raise UserError(
            f"timm has no weights that make {architecture.name} what its authors published",
            fix="pass their checkpoint with --weights FILE",
        )
    return architecture.timm


def _from_drawn(
    architecture: Architecture,
    input_size: Any,
    activation: str | None,
    num_classes: int | None,
    weights: str | Path | None,
    seed: int,
) -> LoadedModel:
    """A reference model that makes its own inputs: ``input_size`` is their size, or the shapes of all of them."""
    name, size, make = architecture.name, architecture.input_size, architecture.draw
    assert make is not None
    if weights == TIMM:
        _timm_name(architecture)
    shapes = None if input_size is None else parse_shapes(input_size)
    if shapes is not None:
        size = shapes[0] if len(shapes) == 1 else shapes[0][: len(size)]
        check_input_size(architecture, size)
    with within_memory(f"{name} for {'x'.join(map(str, size))} {architecture.takes}"):
        drawn = [tuple(x.shape) for x in make(0, size)]
    if shapes is not None and len(shapes) > 1 and shapes != drawn:
        raise UserError(f"{name} takes inputs of {_text(drawn)}", fix=f"pass {_text([architecture.input_size])}")
    model = create_model(name, num_classes=num_classes, input_size=size, activation=activation, seed=seed)
    record = ModelRecord(
        name=name,
        source=name,
        activation=activation or architecture.activation,
        num_classes=num_classes or architecture.num_classes,
        input_shapes=[list(shape) for shape in drawn],
        weights=_weights(model, "random", weights, seed),
    )
    return LoadedModel(model, record, None, draw=lambda case: make(case, size))


def _from_module(
    module: nn.Module, name: str, source: str, kind: Any, input_size: Any, weights: str | Path | None, seed: int
) -> LoadedModel:
    if input_size is None:
        raise UserError(f"the input shape of {name!r} is not known", fix="pass it, such as --input-size 1x3x224x224")
    inputs = parse_inputs(input_size)
    shapes, types = [shape for shape, _ in inputs], [kind for _, kind in inputs]
    if any(len(shape) < 2 and kind == InputType() for shape, kind in inputs):
        raise UserError(f"{input_size!r} is not a whole shape", fix="write the batch too, such as 1x3x224x224")
    module, draw = module.eval(), partial(typed, shapes, types)
    with within_memory(f"an input of {_text(shapes)}"):
        example = draw(0)
    _check_runs(module, name, example, ",".join(_drawn(shape, kind) for shape, kind in inputs))
    takes_integers = any(kind != InputType() for kind in types)
    record = ModelRecord(
        name=artifact_name(name),
        source=source,
        activation=None,
        num_classes=None,
        input_shapes=[list(shape) for shape in shapes],
        input_types=types if takes_integers else [],
        weights=_weights(module, kind, weights, seed),
    )
    if takes_integers:
        return LoadedModel(module, record, None, draw=draw)
    return LoadedModel(module, record, Preprocessing.for_input(shapes[0]) if len(shapes) == 1 else None)


def _check_runs(module: nn.Module, name: str, inputs: tuple[Tensor, ...], described: str) -> None:
    """Raise `UserError` where a module does not take such inputs."""
    try:
        with torch.no_grad(), one_thread():
            module(*inputs)
    except (Exception, SystemExit) as error:  # whatever somebody's forward() raises
        others = any(p.is_floating_point() and p.dtype != torch.float32 for p in module.parameters())
        raise UserError(
            f"{name!r} does not run on an input of {described}: {type(error).__name__}: {_first_line(error)}",
            fix="make its weights float32 with .float(); a target's --precision reduces them"
            if others
            else f"pass the shape that it takes with --input-size (of integers from 0 to 99: {TYPED}), "
            "or mend its forward()",
        ) from error


def _example_inputs(
    shapes: list[tuple[int, ...]], draw: Callable[..., tuple[Tensor, ...]] = noise
) -> tuple[Tensor, ...]:
    with within_memory(f"an input of {_text(shapes)}"):
        return draw(shapes, seed=0)


def _text(shapes: list[tuple[int, ...]]) -> str:
    return ",".join("x".join(map(str, shape)) for shape in shapes)


def _drawn(shape: tuple[int, ...], kind: InputType) -> str:
    """An input as it is written, and of which integers it is."""
    return _text([shape]) + ("" if kind == InputType() else f":{kind} with values of 0 to {kind.largest}")


def _from_pt2(path: Path) -> LoadedModel:
    if not path.is_file():
        raise UserError(
            f"there is no exported program {str(path)!r}",
            fix="check the path; to verify an artifact of it, run in the folder that it was exported from, "
            "or put the file back there",
        )
    from deploy_kit.pt2 import RefusedError, load_program  # with it comes all of torch.export, which takes a second

    try:
        program = load_program(path)
        module = program.module(check_guards=False)
    except (RefusedError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{str(path)!r} holds more than tensors and operators, and reading it could run code; it was not read "
            f"({_first_line(error)})",
            fix="ask its author for the model's code and a .safetensors file",
        ) from error
    except Exception as error:  # torch raises many types for a damaged file
        raise UserError(
            f"{str(path)!r} is not an exported program that can be read: {_first_line(error)}",
            fix="write it with torch.export.save(torch.export.export(model, inputs), path)",
        ) from error
    arguments, keywords = program.call_spec.in_spec.unflatten(range(program.call_spec.in_spec.num_leaves))
    if keywords or not arguments or not all(isinstance(argument, int) for argument in arguments):
        raise UserError(
            f"{str(path)!r} does not take its inputs as positional tensors, but none, or in tuples, dicts or keywords",
            fix="export a module around it whose forward(x, y) takes one tensor an argument",
        )
    placeholders = {
        node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and "val" in node.meta
    }
    values = [placeholders[name] for name in program.graph_signature.user_inputs if name in placeholders]
    if not all(isinstance(value, Tensor) and value.dtype in (torch.float32, *INTEGERS) for value in values):
        raise UserError(
            f"{str(path)!r} has inputs that are neither float32 nor integers (int32 or int64)",
            fix="export it with float32 inputs",
        )
    shapes = [[s if isinstance(s, int) else s.node.hint for s in value.shape] for value in values]
    record = ModelRecord(
        name=artifact_name(str(path)),
        source=str(path),
        activation=None,
        num_classes=None,
        input_shapes=shapes,
        weights=_weights(module, "program", None, 0),
    )
    if all(value.dtype == torch.float32 for value in values):
        preprocessing = Preprocessing.for_input(tuple(shapes[0])) if len(shapes) == 1 else None
        return LoadedModel(module, record, preprocessing, program)
    examples = program.example_inputs
    if examples is None:
        raise UserError(
            f"{str(path)!r} takes integers, and does not hold the example inputs that would say which are valid",
            fix="write it with torch.export.save(torch.export.export(model, inputs), path), which keeps them",
        )
    return LoadedModel(module, record, None, program, draw=partial(_like_examples, examples[0]))


def _like_examples(examples: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Noise for floats; for integers, whose valid range nobody says, the elements of the example in another order."""
    floats = noise([tuple(x.shape) for x in examples], seed=seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for example, values in zip(examples, floats):
        order = torch.randperm(example.numel(), generator=generator)
        drawn.append(values if example.is_floating_point() else example.flatten()[order].reshape(example.shape))
    return tuple(drawn)


def _from_timm(
    source: str, input_size: Any, num_classes: int | None, weights: str | Path | None, seed: int
) -> LoadedModel:
    name, pretrained = source.removeprefix("timm/"), weights == TIMM
    if pretrained and num_classes is not None:
        raise UserError("timm's weights are those of their own classes", fix="leave out --num-classes")
    with within_memory(source if num_classes is None else f"{source} with {num_classes} classes"):
        model, shape = create_timm_model(name, num_classes=num_classes, seed=seed, pretrained=pretrained)
    size = input_size or shape
    shapes = parse_shapes(size)
    if len(shapes[0]) < 3:
        size = (1, 3, shapes[0][0], shapes[0][-1])
    file = None if pretrained else weights
    loaded = _from_module(model, source, source, "timm", size, file, seed)
    described = loaded.record.weights
    if pretrained:
        described = described.model_copy(update={"seed": None, "path": timm_name(model)})
    record = loaded.record.model_copy(update={"num_classes": num_classes, "weights": described})
    preprocessing = loaded.preprocessing and timm_preprocessing(model).resized(tuple(record.input_shapes[0][2:]))
    return LoadedModel(loaded.module, record, preprocessing)


def _call(source: str, seed: int) -> nn.Module:
    module_name, _, attribute = source.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        owner: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{module_name!r} cannot be imported: {error}", fix="run in the folder that holds it, or install it"
        ) from error
    except (Exception, SystemExit) as error:  # whatever somebody's module raises
        raise UserError(f"{module_name!r} cannot be imported: {_what_and_where(error)}") from error
    builder = getattr(owner, attribute, None)
    if not callable(builder):
        raise UserError(f"{module_name!r} has no function called {attribute!r}", fix="write package.module:callable")
    try:
        inspect.signature(builder).bind()
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source!r} cannot be called without arguments: {error}", fix="write a function around it that takes none"
        ) from error
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = builder()
    except (Exception, SystemExit) as error:  # whatever somebody's function raises
        raise UserError(f"{source!r} failed: {_what_and_where(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{source!r} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _what_and_where(error: BaseException) -> str:
    """An exception's type and message, and the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {_first_line(error)} ({frame.filename}, line {frame.lineno})"


def _weights(module: nn.Module, kind: Any, weights: str | Path | None, seed: int) -> WeightsRecord:
    """Load a checkpoint if one is given, and describe the weights that the module then has."""
    if weights is None:
        return WeightsRecord(kind=kind, sha256=hash_state(module), seed=None if kind == "program" else seed)
    load_checkpoint(module, weights)
    return WeightsRecord(kind="checkpoint", sha256=hash_state(module), path=str(weights))


def hash_state(module: nn.Module) -> str:
    """The sha256 of a module's state dict: names, dtypes, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parse_shapes(text: str | int | tuple[int, ...]) -> list[tuple[int, ...]]:
    """``1x3x224x224`` as [(1, 3, 224, 224)]; several shapes are separated by commas."""
    if isinstance(text, str) and ":" in text:
        raise UserError(f"{text!r} has a type, and what this model takes is known", fix="leave the type out")
    return [shape for shape, _ in parse_inputs(text)]


def parse_inputs(text: str | int | tuple[int, ...]) -> list[tuple[tuple[int, ...], InputType]]:
    """``1x3x224x224,1x12:int64:100`` as shapes and types; a type and the bound of integers may be left out."""
    if isinstance(text, int):
        return [((text,), InputType())]
    if isinstance(text, tuple):
        return [(text, InputType())]
    inputs = []
    for part in text.split(","):
        shape, *kind = part.strip().split(":", maxsplit=1)
        inputs.append((_parse_shape(shape), _parse_type(*kind) if kind else InputType()))
    return inputs


def _parse_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"0*[1-9][0-9]{0,99}(x0*[1-9][0-9]{0,99})*", text):
        raise UserError(f"{text!r} is not a shape", fix="write sizes with x between, such as 1x3x224x224")
    return tuple(int(size) for size in text.split("x"))


def _parse_type(text: str) -> InputType:
    name, *bound = text.split(":", maxsplit=1)
    kind = TYPES.get(name)
    if kind is None:
        raise UserError(f"an input of the type {name!r} cannot be", fix=f"write {', '.join(TYPES)}, such as {TYPED}")
    if not bound:
        return kind
    if kind == InputType():
        raise UserError(f"only integers have a bound, and {text!r} are none", fix="write 1x12:float32, or 1x12")
    largest = torch.iinfo(getattr(torch, name)).max
    if not re.fullmatch("[0-9]{1,19}", bound[0]) or not 1 <= int(bound[0]) <= largest:
        raise UserError(
            f"{bound[0]!r} is no bound of {name}", fix=f"write one of 1 to {largest}, such as {TYPED} for 0 to 99"
        )
    return kind.model_copy(update={"bound": int(bound[0])})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
