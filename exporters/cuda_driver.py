"""The few calls of CUDA's driver that running an engine takes, through ctypes: no package is needed for them."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from typing import Any

import numpy as np

LIBRARY = "libcuda.so.1"
MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


class NoDeviceError(Exception):
    """There is no CUDA driver here, or it has no device; the message says which."""


class Cuda:
    """The first device: memory on it, copies to and from it, and one stream."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NoDeviceError("there is no CUDA driver here") from error
        self._device, context, stream = c_int(), c_void_p(), c_void_p()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGet", byref(self._device), 0)
        except RuntimeError as error:
            raise NoDeviceError(f"the CUDA driver has no device: {error}") from error
        self._call("cuDevicePrimaryCtxRetain", byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", byref(stream), 0)
        self.stream: int = stream.value or 0

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = c_char_p()
            self._library.cuGetErrorString(status, byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()} ({status})")

    def name(self) -> str:
        """What the device is called."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode()

    def compute_capability(self) -> str:
        """Of the device, such as ``8.6``."""
        major, minor = c_int(), c_int()
        self._call("cuDeviceGetAttribute", byref(major), MAJOR, self._device)
        self._call("cuDeviceGetAttribute", byref(minor), MINOR, self._device)
        return f"{major.value}.{minor.value}"

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes on the device."""
        pointer = c_uint64()
        self._call("cuMemAlloc_v2", byref(pointer), c_size_t(max(size, 1)))
        return pointer.value

    def free(self, pointer: int) -> None:
        """Give back what `allocate` returned."""
        self._call("cuMemFree_v2", c_uint64(pointer))

    def upload(self, pointer: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device."""
        self._call("cuMemcpyHtoD_v2", c_uint64(pointer), c_void_p(array.ctypes.data), c_size_t(array.nbytes))

    def download(self, array: np.ndarray, pointer: int) -> None:
        """Fill a contiguous array from the device, after all work on the stream is done."""
        self._call("cuStreamSynchronize", c_void_p(self.stream))
        self._call("cuMemcpyDtoH_v2", c_void_p(array.ctypes.data), c_uint64(pointer), c_size_t(array.nbytes))
