"""Memory that a busy hour took goes back to the system when nobody asks for anything."""

import ctypes
import gc
import os


def give_back() -> None:
    """Return what is free inside the process to the system, where the C library keeps it (glibc does); else do nothing."""
    gc.collect()
    if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}):
        ctypes.CDLL(None).malloc_trim(0)
