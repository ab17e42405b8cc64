"""A device with a real adbd and an ARM64 userspace, all of it from Debian 13, emulated program by program."""
