"""Whether what a recipe names is there: what is not is told before anything is exported, and is no result of a cell."""

from __future__ import annotations

from pathlib import Path

from deploy_kit.benchmarks.comparison import check_comparable
from deploy_kit.benchmarks.protocol import chosen_cores, protocol_of
from deploy_kit.benchmarks.runners.choice import choose_runner, targets_of
from deploy_kit.cells.recipe import FILE, Latency, Recipe, installed_targets, model_names
from deploy_kit.devices.registry import get_device
from deploy_kit.errors import UserError
from deploy_kit.models import get_architecture


def require(recipe: Recipe) -> None:
    """Raise an error for what a recipe names and there is not: models, files, the device and the runner that time.

    A module of the user's is not imported, and timm is not asked.

    Raises:
        UserError: no such model, file, kind of device or program, or a comparison that can show nothing.
        DeviceError: the device is not attached, or cannot be used as it is.
    """
    for model in model_names(recipe.models):
        if model.endswith(FILE):
            _require_file("exported program", Path(model))
        elif ":" not in model and not model.startswith("timm/"):
            get_architecture(model)
    for options in recipe.model.values():
        if options.weights not in (None, "timm"):
            _require_file("checkpoint", Path(str(options.weights)))
    if recipe.accuracy is not None:
        _require_file("file of labelled inputs", recipe.accuracy.data)
    if recipe.latency is not None:
        _require_timing(recipe.latency, recipe.targets or tuple(installed_targets()))


def _require_file(what: str, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no {what} {str(path)!r}", fix="mend the path: those in a recipe start at its folder")


def _require_timing(latency: Latency, targets: tuple[str, ...]) -> None:
    protocol_of(warmup=latency.warmup, iterations=latency.iterations, threads=latency.threads, cores=latency.cores)
    device = get_device(latency.device)
    info = device.info()
    check_comparable(info, latency.pairs)
    chosen_cores(latency.cores, info)
    if latency.runner is not None:
        runnable = targets_of(device, latency.runner)
        for target in targets:
            if target in runnable:
                choose_runner(device, target, latency.threads, latency.runner)
