"""Memory for gradients, kept from one step to the next.

A gradient of many megabytes that is allocated in each step comes from the operating system each time, which clears its
pages one after the other: that takes several times as long as to compute the gradient.
"""

import sys
import threading

import numpy
import torch

# Below, the C library keeps memory itself.
_LEAST_BYTES = 1 << 20
_ALIGNMENT = 64

_lock = threading.Lock()
_kept = []

# What `sys.getrefcount` says of an array that only a list has.
_listed = [numpy.empty(1)]
_FREE = sys.getrefcount(_listed[0])


def empty_like(input):
    """As ``torch.empty_like``. The memory of the last large tensor is used again, once nobody has it."""
    bytes_needed = input.numel() * input.element_size()
    if bytes_needed < _LEAST_BYTES or not (input.dim() <= 2 or input.is_contiguous()):
        return torch.empty_like(input)
    with _lock:
        # An array is referred to by every tensor and view of it.
        is_free = bool(_kept) and sys.getrefcount(_kept[0]) == _FREE
        if not (is_free and bytes_needed <= _kept[0].nbytes - _ALIGNMENT <= 2 * bytes_needed):
            _kept.clear()
            # NumPy asks for large pages.
            _kept.append(numpy.empty(bytes_needed + _ALIGNMENT, dtype=numpy.uint8))
        start = -_kept[0].ctypes.data % _ALIGNMENT
        memory = torch.from_numpy(_kept[0][start : start + bytes_needed])
    # No view, which nobody may change where a graph is kept.
    memory = memory.view(input.dtype)
    gradient = torch.empty(0, dtype=input.dtype, device="cpu")
    return gradient.set_(memory.untyped_storage(), memory.storage_offset(), input.shape)


def release_memory():
    """Lets the kept memory go. It is freed when nobody has a gradient in it any more."""
    with _lock:
        _kept.clear()
