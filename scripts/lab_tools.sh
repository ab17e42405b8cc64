#!/usr/bin/env bash
# Install what the tests of reports, sweeps and documentation use, where that is allowed; without one they skip.
set -euo pipefail

# Pages are opened in a browser (chromium), results are kept by a real server (postgresql), and phones are daemons of
# our own (adb).
exec "$(dirname "$0")/install_packages.sh" chromium postgresql adb
