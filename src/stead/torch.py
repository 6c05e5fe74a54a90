"""PyTorch's tensors in a device's arena: :mod:`stead.integrations.torch` by a shorter name."""

from stead.integrations.torch import allocating_in, allocator, pause, release, resume, use

__all__ = ["allocating_in", "allocator", "pause", "release", "resume", "use"]
