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

# shellcheck disable=SC2086  # a list of words
exec "$(dirname "$0")/install_packages.sh" $packages
