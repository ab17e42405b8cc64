"""The ssh hosts that the user lists as devices, in ``devices.toml`` in deploykit's folder of settings.

.. code-block:: toml

    ssh = ["pi@raspberrypi.local", "jetson"]

Only these are asked by ``deploykit devices``: a user's ssh configuration has hosts that are no devices.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from deploy_kit.errors import UserError

EXAMPLE = 'write such as: ssh = ["pi@raspberrypi.local", "jetson"]'


def hosts_file() -> Path:
    """``~/.config/deploykit/devices.toml``, or below ``XDG_CONFIG_HOME``; it need not be there."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "deploykit" / "devices.toml"


def listed_hosts() -> tuple[str, ...]:
    """What follows ``ssh:`` of each host that is listed, each once; `UserError` names the file where it is damaged."""
    path = hosts_file()
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", fix="see that you may read it") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}", fix=EXAMPLE) from None
    unknown = sorted(set(found) - {"ssh"})
    if unknown:
        raise UserError(f"{path} has {unknown[0]!r}, which is nothing that deploykit knows", fix=EXAMPLE)
    hosts = found.get("ssh", [])
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise UserError(f"{path}: ssh is no list of hosts", fix=EXAMPLE)
    return tuple(dict.fromkeys(hosts))
