#!/usr/bin/env bash
# Install what the tests of devices and of the native runners use, where that is allowed; without one they skip.
set -euo pipefail

# The runners are compiled for this machine and for arm64 (g++, libtorch-dev), their ARM code is run and its
# instructions are counted (qemu-user), the Android app's core runs on a JVM and its resources are linked (aapt), a
# board is an sshd on loopback, and a phone is a daemon of our own or a real adbd in a namespace (adb, iproute2).
packages="g++ libtorch-dev libopenblas0-pthread g++-aarch64-linux-gnu qemu-user default-jdk-headless aapt
    android-framework-res openssh-client adb iproute2"
# A server is not put where it would be started, now and at every boot; a container or CI starts none.
[ -d /run/systemd/system ] || packages="$packages openssh-server"

wanted=()
for package in $packages; do
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
