"""Starts `deploy_kit.cells.worker`, and first says which process group it is, so that it can be ended at once.

``python -P -m deploy_kit.cells.start JOB RESULT``: as the worker's; the job also has the file for the ``group``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    group = Path(json.loads(Path(sys.argv[1]).read_text())["group"])
    whole = group.with_name(f".{group.name}")
    whole.write_text(str(os.getpgrp()))
    whole.replace(group)

    from deploy_kit.cells import worker  # it takes seconds

    worker.main()


if __name__ == "__main__":
    main()
