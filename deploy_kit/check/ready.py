"""Whether what a recipe names is there: what is not is told before anything is exported, and is no result of a cell."""

from __future__ import annotations

from deploy_kit.benchmarks.comparison import check_comparable
from deploy_kit.benchmarks.protocol import chosen_cores, protocol_of
from deploy_kit.benchmarks.runners.choice import choose_runner, targets_of
from deploy_kit.cells.ready import require_files_and_models
from deploy_kit.cells.recipe import Latency, Recipe, installed_targets
from deploy_kit.devices.registry import get_device


def require(recipe: Recipe) -> None:
    """Raise an error for what a recipe names and there is not: models, files, the device and the runner that time.

    A module of the user's is not imported, and timm is not asked.

    Raises:
        UserError: no such model, file, kind of device or program, or a comparison that can show nothing.
        DeviceError: the device is not attached, or cannot be used as it is.
    """
    require_files_and_models(recipe)
    if recipe.latency is not None:
        _require_timing(recipe.latency, recipe.targets or tuple(installed_targets()))


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
