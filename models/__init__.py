"""Reference architectures: one file each, with configuration, module and checkpoint layout."""

from deploy_kit.models import edgevit as edgevit
from deploy_kit.models import efficientformer as efficientformer
from deploy_kit.models import efficientformerv2 as efficientformerv2
from deploy_kit.models import efficientvit as efficientvit
from deploy_kit.models import efficientvit_m as efficientvit_m
from deploy_kit.models import flatformer as flatformer
from deploy_kit.models import levit as levit
from deploy_kit.models import mobilenet as mobilenet
from deploy_kit.models import mobilevit as mobilevit
from deploy_kit.models import poolformer as poolformer
from deploy_kit.models import sparsevit as sparsevit
from deploy_kit.models import swin as swin
from deploy_kit.models import vit as vit
from deploy_kit.models.checkpoint import load_checkpoint
from deploy_kit.models.registry import (
    Architecture,
    Published,
    create_model,
    get_architecture,
    list_models,
    smallest_models,
)

__all__ = [
    "Architecture",
    "Published",
    "create_model",
    "get_architecture",
    "list_models",
    "load_checkpoint",
    "smallest_models",
]
