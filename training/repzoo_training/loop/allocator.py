"""The memory allocator of the C library during training."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# Parameters of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Keep freed memory in this process for good, if its C library is glibc.

    Each training step allocates and frees the same large tensors. By default, glibc returns them to
    the system, which fills each page with zeros when it is next used.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
