#!/usr/bin/env bash
# Type-check the package as it installs: the top-level folders in their places under deploy_kit.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=build/types
rm -rf "$tree"
mkdir -p "$tree/deploy_kit"
for part in deploy_kit/*; do
    ln -s "$PWD/$part" "$tree/$part"
done
for part in models exporters benchmarks; do
    ln -s "$PWD/$part" "$tree/deploy_kit/$part"
done
MYPYPATH=$tree .venv/bin/mypy --package deploy_kit
