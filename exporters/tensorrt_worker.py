"""The part of the tensorrt target that calls TensorRT, in a process of its own.

``python -P -m deploy_kit.exporters.tensorrt_worker JOB RESULT``: JOB and RESULT are JSON files. The job's
``package`` is ``tensorrt`` or ``tensorrt_rtx``; their Python APIs are the same where this uses them.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from typing import Any

import numpy as np

from deploy_kit.exporters.cuda_driver import Cuda, NoDeviceError

NOT_LOADED = "the engine cannot be loaded"
"""How the last words begin where the runtime refuses an engine."""


def _logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the errors, in ``words``, and drops the rest."""

    class Words(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.words: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.words.append(message)

    return Words()


def _fail(what: str, logger: Any) -> SystemExit:
    return SystemExit("\n".join([what, *logger.words[-3:]]))


def build(trt: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Ask the parser what it supports of an ONNX file and, where that is all of it, build an engine.

    Returns:
        ``version``, ``unsupported`` (operator, node and reason each) and ``layers``, how many of each type
        TensorRT's network has.
    """
    logger = _logger(trt)
    builder = trt.Builder(logger)
    unsupported = _unsupported(trt, builder, logger, job["onnx"])
    result = {"version": trt.__version__, "unsupported": unsupported, "layers": {}}
    if unsupported:
        return result
    network = builder.create_network(_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job["onnx"]):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise SystemExit("\n".join(["the parser failed", *errors]))
    layers = Counter(network.get_layer(index).type.name.lower() for index in range(network.num_layers))
    engine = builder.build_serialized_network(network, _configure(trt, builder, job["compute_capabilities"]))
    if engine is None:
        raise _fail("the builder failed", logger)
    with open(job["engine"], "wb") as file:
        file.write(engine)
    return {**result, "layers": dict(layers.most_common())}


def _unsupported(trt: Any, builder: Any, logger: Any, path: str) -> list[dict[str, str]]:
    network = builder.create_network(_typed(trt))  # the parser crashes when nothing else holds it
    parser = trt.OnnxParser(network, logger)
    with open(path, "rb") as file:
        if parser.supports_model_v2(file.read(), path):
            return []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [
        {"operator": error.node_operator(), "node": error.node_name(), "reason": error.desc()} for error in errors
    ] or [{"operator": "", "node": "", "reason": "the parser does not say why"}]


def _typed(trt: Any) -> int:
    """The flag by which a network computes in the types that its ONNX says; TensorRT-RTX does nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(trt: Any, builder: Any, compute_capabilities: list[str]) -> Any:
    """A builder's configuration: true float32, and the devices to build for (none: what the package does itself)."""
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if compute_capabilities:
        known = _known(trt)
        for wanted in compute_capabilities:
            if wanted not in known:
                raise SystemExit(f"{trt.__name__} {trt.__version__} builds for {', '.join(known)}, not for {wanted}")
        config.num_compute_capabilities = len(compute_capabilities)
        for index, wanted in enumerate(compute_capabilities):
            config.set_compute_capability(known[wanted], index)
    return config


def _known(trt: Any) -> dict[str, Any]:
    """The devices that a package names, such as ``8.6`` for its ``SM86``; none for one that builds for its own."""
    members = trt.ComputeCapability.__members__ if hasattr(trt, "ComputeCapability") else {}
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items() if name.startswith("SM")}


def run(trt: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Run an engine on every case and keep the outputs.

    Returns:
        ``device``, or where nothing here can run it None and the ``reason``.
    """
    try:
        cuda = Cuda()
    except NoDeviceError as error:
        return {"device": None, "reason": str(error)}
    capability = cuda.compute_capability()
    built_for = job["compute_capabilities"]
    if built_for and capability not in built_for:
        reason = f"{cuda.name()} has compute capability {capability}, and the engine is for {', '.join(built_for)}"
        return {"device": None, "reason": reason}
    logger = _logger(trt)
    with open(job["engine"], "rb") as file:
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(file.read())
    if engine is None and _known(trt) and capability not in _known(trt):
        return {"device": None, "reason": f"{trt.__name__} has nothing for {cuda.name()} ({capability})"}
    if engine is None:
        raise _fail(NOT_LOADED, logger)
    context = engine.create_execution_context()
    outputs = {}
    with np.load(job["inputs"]) as given:
        for case in range(job["cases"]):
            arrays = [given[name] for name in given.files if name.startswith(f"{case}:")]
            for index, output in enumerate(execute(trt, cuda, engine, context, arrays)):
                outputs[f"{case}:{index}"] = output
    np.savez(job["outputs"], **outputs)  # type: ignore[arg-type]  # numpy's stub
    return {"device": cuda.name(), "reason": None, "version": trt.__version__}


def execute(trt: Any, cuda: Cuda, engine: Any, context: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of one inference, in the model's order."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    pointers = {}
    for name, array in zip(sorted(given, key=_place), arrays):
        array = np.ascontiguousarray(array, dtype=trt.nptype(engine.get_tensor_dtype(name)))
        pointers[name] = cuda.allocate(array.nbytes)
        cuda.upload(pointers[name], array)
    results = {}
    for name in sorted(set(names) - set(given), key=_place):
        shape, dtype = tuple(engine.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
        results[name] = np.empty(shape, dtype)
        pointers[name] = cuda.allocate(results[name].nbytes)
    for name, pointer in pointers.items():
        context.set_tensor_address(name, pointer)
    if not context.execute_async_v3(cuda.stream):
        raise SystemExit("the engine did not run")
    for name, array in results.items():
        cuda.download(array, pointers[name])
    for pointer in pointers.values():
        cuda.free(pointer)
    return list(results.values())


def _place(name: str) -> int:
    """The index of an input or output by its name: 0 for ``input``, 2 for ``input_2``."""
    return int(name.rpartition("_")[2]) if "_" in name else 0


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    trt = importlib.import_module(job["package"])
    result = {"build": build, "run": run}[job["do"]](trt, job)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
