#!/bin/sh
# Run a command beside an adbd in an ARM64 root, in a network and a mount namespace of their own:
#   inside.sh ROOT QEMU COMMAND...
# adbd listens on every address and asks nobody: it must never be started outside of such a namespace.
set -eu
root=$1 qemu=$2
shift 2

ip link set lo up
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
# ELF, 64 bits, little endian, for machine 183 (AArch64); F opens qemu here, as the root has none.
printf '%s' ':arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:'\
'\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:'"$qemu:PF" \
    > /proc/sys/fs/binfmt_misc/register

# What is written is written here alone: another run may have the same root.
mount -t tmpfs tmpfs "$root/data/local/tmp"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind "$root/cpuinfo" "$root/proc/cpuinfo"
mount --rbind /dev "$root/dev"
export QEMU_CPU=cortex-a76
chroot "$root" /usr/lib/android-sdk/platform-tools/adbd 2> "$root/tmp/adbd.log" &
tries=0
until adb connect 127.0.0.1:5555 2>&1 | grep -q '^connected'; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "adbd did not start: $(cat "$root/tmp/adbd.log")" >&2; exit 3; }
    sleep 0.1
done
"$@"
left=$(ls -A "$root/data/local/tmp")
adb kill-server >&2
[ -z "$left" ] || { echo "left on the device: $left" >&2; exit 4; }
