#!/usr/bin/env bash
# Install the Debian packages that are named and not here yet, where that is allowed; without one, tests skip.
set -euo pipefail

wanted=()
for package in "$@"; do
    dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || wanted+=("$package")
done
[ "${#wanted[@]}" -gt 0 ] || exit 0

echo "installing ${wanted[*]}"
root=()
[ "$(id -u)" -eq 0 ] || root=(sudo -n)
if ! { "${root[@]}" apt-get update -qq &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" \
        >/dev/null; }; then
    echo "note: not installed: ${wanted[*]}; the tests that need them skip" >&2
fi
