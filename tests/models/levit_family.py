"""Names that `tests.models.test_timm` still imports from here."""

from tests.models.faithful import relative as relative
from tests.models.faithful import run as run
