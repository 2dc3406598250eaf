"""Arrays for library.py: PyTorch's tensors as they are, or NumPy's in memory that the library allocates."""

import ctypes
import math

WIDTHS = {"f32": "float32", "f16": "float16", "f64": "float64", "i32": "int32", "u8": "uint8", "bf16": "bfloat16"}


class TorchArray:
    """A view of a CUDA tensor; no copy."""

    def __init__(self, tensor):
        dtypes = {name: dtype for dtype, name in WIDTHS.items()}
        self.tensor = tensor
        self.pointer, self.device = tensor.data_ptr(), tensor.device.index or 0
        self.dtype, self.shape = dtypes[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape)
        self.strides = None if tensor.is_contiguous() else tuple(tensor.stride())


def torch_output(device):
    """Allocates outputs full of NaN (of 255 if integers), so that an element that was not written shows."""
    import torch

    def allocate(dtype, shape):
        kind = getattr(torch, WIDTHS[dtype])
        poison = math.nan if kind.is_floating_point else 255
        return TorchArray(torch.full(shape, poison, dtype=kind, device=device))

    return allocate


class LibraryArray:
    """Memory of a device, through grpo_cuda_api: the only kind that the simulated library knows."""

    def __init__(self, library, dtype, shape, device=0):
        import numpy

        self.library, self.dtype, self.shape, self.device, self.strides = library, dtype, tuple(shape), device, None
        self.kind = numpy.dtype(WIDTHS[dtype])
        self.bytes = math.prod(shape) * self.kind.itemsize
        memory = ctypes.c_void_p()
        library.must(library.cuda.allocate(device, max(self.bytes, 1), None, ctypes.byref(memory)))
        self.pointer = memory.value

    def write(self, values):
        import numpy

        host = numpy.ascontiguousarray(values, self.kind)
        cuda = self.library.cuda
        self.library.must(cuda.upload(self.device, self.pointer, host.ctypes.data, self.bytes, None))
        return self

    def read(self):
        import numpy

        host = numpy.empty(self.shape, self.kind)
        cuda = self.library.cuda
        self.library.must(cuda.download(self.device, host.ctypes.data, self.pointer, self.bytes, None))
        return host

    def release(self):
        self.library.must(self.library.cuda.release(self.device, self.pointer, None))


def library_output(library):
    """As torch_output."""
    import numpy

    def allocate(dtype, shape):
        array = LibraryArray(library, dtype, shape)
        poison = 255 if array.kind.kind in "iu" else math.nan
        return array.write(numpy.full(shape, poison, array.kind))

    return allocate
