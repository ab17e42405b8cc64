"""Whether what a recipe's cells are made of is there: what is not is told before anything is exported."""

from __future__ import annotations

from pathlib import Path

from deploy_kit.cells.recipe import FILE, Recipe, model_names
from deploy_kit.errors import UserError
from deploy_kit.models import get_architecture


def require_files_and_models(recipe: Recipe) -> None:
    """Raise `UserError` for a model, checkpoint or file of labelled inputs that a recipe names and there is not.

    A module of the user's is not imported, and timm is not asked.
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


def _require_file(what: str, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no {what} {str(path)!r}", fix="mend the path: those in a recipe start at its folder")
