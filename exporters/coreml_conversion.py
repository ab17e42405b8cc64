"""From a ``torch.export`` program to an ``.mlpackage``: the part of the coreml target that calls coremltools."""

from __future__ import annotations

import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from deploy_kit.exporters.coreml_compression import compress
from deploy_kit.exporters.coreml_image import image_type
from deploy_kit.exporters.mil.interpreter import execute, operator_types, unknown_operators
from deploy_kit.exporters.mil.package import load_package, quiet
from deploy_kit.exporters.mil.ranges import Kept, RangeAudit, worst_snr_db
from deploy_kit.exporters.mil.translations import exact_pipeline, register_translations
from deploy_kit.outcome import Outcome

LOW_DB = 40.0
"""The user is told when fp16 is further from float32 than this."""

FRONTEND = "coremltools/converters/mil/frontend/"
"""Where coremltools translates what it is given; an error from anywhere else is its backend's."""

FailsAs = Callable[[Outcome], None]
"""Called before each step with what its failure, or its crash, is."""


@dataclass(frozen=True)
class Converted:
    """What is in a package that was written, for the manifest and for the user."""

    operators: dict[str, int]
    unknown_operators: list[str]
    coremltools: str
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def write_package(
    program: ExportedProgram,
    package: Path,
    *,
    ios: int,
    precision: str,
    compression: str | None = None,
    image: bool = False,
    samples: Sequence[tuple[Tensor, ...]] = (),
    fails_as: FailsAs = lambda outcome: None,
) -> Converted:
    """Convert a program, keep in float32 what fp16 has no room for, and compress its weights.

    Args:
        package: the ``.mlpackage`` to write.
        ios: the oldest version of iOS that has to load it.
        precision: fp32, fp16, or int8 for a program with quantized layers, whose rest is fp16.
        compression: of the weights, a name in `coreml_compression.KINDS`; None leaves them as they are.
        image: whether the program's one input is the planes of an image.
        samples: inputs to measure ranges and losses on.
        fails_as: see `FailsAs`.
    """
    details: dict[str, Any] = {}
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        plain = package if compression is None else Path(scratch, package.name)
        audit = RangeAudit(samples) if precision != "fp32" else None
        convert(program, plain, ios, audit, fails_as, image=image)
        function = _load(plain, fails_as)
        runs = not unknown_operators(function) and (audit is None or audit.skipped is None)
        outputs = [execute(function, sample) for sample in samples] if runs and (audit or compression) else None
        if audit is not None:
            mixed = Mixed(audit.kept, worst_snr_db(audit.expected, outputs) if outputs else None, audit.skipped)
            details["fp16"] = mixed.details() | {"samples": len(samples)}
            notes += mixed.notes(warn=precision == "fp16")
        if compression is not None:
            fails_as(Outcome.LOWER_FAILED)
            compress(plain, package, compression)
            function = _load(package, fails_as)
            details["compression"] = _compression_details(function, compression, plain, package, samples, outputs)
            notes += _compression_notes(details["compression"])
    return Converted(
        operators=dict(Counter(operator_types(function)).most_common()),
        unknown_operators=unknown_operators(function),
        coremltools=version("coremltools"),
        details=details,
        notes=notes,
    )


def _load(package: Path, fails_as: FailsAs) -> Any:
    fails_as(Outcome.LOAD_FAILED)
    function = load_package(package)
    fails_as(Outcome.RUN_FAILED)
    return function


def convert(
    program: ExportedProgram,
    package: Path,
    ios: int,
    fp16: RangeAudit | None,
    fails_as: FailsAs = lambda outcome: None,
    *,
    image: bool = False,
) -> None:
    """Write a program as an ``.mlpackage``.

    Args:
        ios: the oldest version of iOS that has to load it.
        fp16: which operators may be computed in fp16; None computes all in float32.
        fails_as: told whether coremltools' frontend or its backend refuses.
        image: whether the program's one input is the planes of an image.
    """
    fails_as(Outcome.EXPORT_FAILED)
    with quiet(), torch.no_grad():
        import coremltools as ct

        register_translations()
        try:
            model = ct.convert(
                program.run_decompositions({}),
                inputs=[image_type(ct, program.example_inputs[0][0].shape)] if image else None,
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
                compute_precision=(
                    ct.precision.FLOAT32 if fp16 is None else ct.transform.FP16ComputePrecision(op_selector=fp16)
                ),
                pass_pipeline=exact_pipeline(),
                skip_model_load=True,
            )
        except Exception as error:
            if not from_frontend(error):
                fails_as(Outcome.LOWER_FAILED)
            raise
        fails_as(Outcome.LOWER_FAILED)
        spec = model.get_spec()
        rename(spec)
        ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(package))


def from_frontend(error: BaseException) -> bool:
    """Whether coremltools raised an error while it translated operators, before its own passes and its backend."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(FRONTEND in frame.filename.replace("\\", "/") for frame in frames)


@dataclass(frozen=True)
class Mixed:
    """What of a model stays in float32, and what the rounding of the rest costs: the SNR against float32."""

    kept: list[Kept]
    snr_db: float | None
    skipped: str | None

    def details(self) -> dict[str, Any]:
        """For the manifest."""
        return {"kept_in_fp32": [asdict(kept) for kept in self.kept], "snr_db": self.snr_db, "skipped": self.skipped}

    def notes(self, *, warn: bool) -> list[str]:
        """For the user; ``warn`` says whether the SNR is of fp16 alone, and worth a word where it is low."""
        if self.skipped is not None:
            return [f"the range of fp16 was not audited: {self.skipped}"]
        notes = []
        if self.kept:
            tensors = {kept.tensor: kept.reason for kept in self.kept}
            first, reason = next(iter(tensors.items()))
            notes.append(
                f"{len(self.kept)} operators stay in float32, because fp16 has no room for {len(tensors)} of the "
                f"tensors that they read or make ({first}: {reason})"
            )
        if warn and self.snr_db is not None and self.snr_db < LOW_DB:
            notes.append(f"fp16 is only {self.snr_db:.0f} dB from float32: check the accuracy, or use --precision fp32")
        return notes


def _compression_details(
    function: Any,
    kind: str,
    plain: Path,
    package: Path,
    samples: Sequence[tuple[Tensor, ...]],
    expected: list[list[Tensor]] | None,
) -> dict[str, Any]:
    """What compression made of the weights; the SNR is against the package as it was before."""
    snr_db = None
    if expected and not unknown_operators(function):
        snr_db = worst_snr_db(expected, [execute(function, sample) for sample in samples])
    return {
        "kind": kind,
        "tensors": sum(op.op_type.startswith("constexpr_") for op in function.operations),
        "weight_bytes": {"before": weight_bytes(plain), "after": weight_bytes(package)},
        "snr_db": snr_db,
    }


def _compression_notes(details: dict[str, Any]) -> list[str]:
    if details["tensors"] == 0:
        return [f"no weight is large enough to be compressed to {details['kind']}"]
    return []


def weight_bytes(package: Path) -> int:
    """The size of a package's file of weights; 0 where it has none."""
    file = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    return file.stat().st_size if file.is_file() else 0


def rename(spec: Any) -> None:
    """Call a model's inputs and outputs ``input`` and ``output``, or ``input_0`` and so on, as other targets do.

    Args:
        spec: coremltools' description of an mlprogram, which is changed. Tensors within the program
            that have such a name already get another.
    """
    wanted: dict[str, str] = {}
    for features, name in ((spec.description.input, "input"), (spec.description.output, "output")):
        for index, feature in enumerate(features):
            wanted[feature.name] = name if len(features) == 1 else f"{name}_{index}"
    taken = {name: f"{name}_within" for name in wanted.values() if name not in wanted}
    names = taken | wanted
    for feature in (*spec.description.input, *spec.description.output):
        feature.name = names[feature.name]
    for function in spec.mlProgram.functions.values():
        for value in function.inputs:
            value.name = names.get(value.name, value.name)
        for block in function.block_specializations.values():
            block.outputs[:] = [names.get(name, name) for name in block.outputs]
            for op in block.operations:
                for value in op.outputs:
                    value.name = names.get(value.name, value.name)
                for argument in op.inputs.values():
                    for binding in argument.arguments:
                        if binding.HasField("name"):
                            binding.name = names.get(binding.name, binding.name)
