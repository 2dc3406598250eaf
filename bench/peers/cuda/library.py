"""The CUDA library through ctypes.

No operation's signature is written here: names, shapes, dtypes, defaults and offsets come from the descriptors that the
library carries (grpo_field in native/ops.h; the language of the specs is explained in lib/ops.ts). An array is anything
with pointer, dtype ("f32"), shape, strides (in elements, or None) and device; memory.py makes them.
"""

import ctypes
import math
import re
from ctypes import POINTER, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_ssize_t
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

API_VERSION = 1
STATUS_DEVICE = -8
INPUT, OUTPUT, OPTION = 0, 1, 2
CUDA = 2  # DLPack's device type
DTYPES = {"f32": (2, 32), "bf16": (4, 16), "f16": (2, 16), "f64": (2, 64), "i32": (0, 32), "u8": (1, 8)}


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class ErrorStruct(ctypes.Structure):
    _fields_ = [("status", c_int32), ("operation", c_char_p), ("argument", c_char_p), ("problem", c_char_p)]


class FieldStruct(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("role", c_int32),
        ("in_objective", c_int32),
        ("spec", c_char_p),
        ("offset", c_size_t),
    ]


class OperationStruct(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("args_size", c_size_t),
        ("objective_offset", c_ssize_t),
        ("fields", POINTER(FieldStruct)),
        ("field_count", c_int32),
        ("run", ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)),
    ]


class Api(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("version", c_uint32),
        ("backend", c_char_p),
        ("operations", POINTER(POINTER(OperationStruct))),
        ("operation_count", c_int32),
        ("last_error", ctypes.CFUNCTYPE(None, POINTER(ErrorStruct))),
        ("defaults", ctypes.CFUNCTYPE(c_int, c_char_p, c_void_p, c_void_p)),
    ]


class CudaApi(ctypes.Structure):
    """grpo_cuda_api, as far as it is used here."""

    _fields_ = [
        ("size", c_size_t),
        ("version", c_uint32),
        ("operations", POINTER(Api)),
        ("cuda_code", ctypes.CFUNCTYPE(c_char_p)),
        ("device_count", ctypes.CFUNCTYPE(c_int32, POINTER(c_char_p))),
        ("device", c_void_p),
        ("allocate", ctypes.CFUNCTYPE(c_int, c_int32, c_size_t, c_void_p, POINTER(c_void_p))),
        ("release", ctypes.CFUNCTYPE(c_int, c_int32, c_void_p, c_void_p)),
        ("upload", ctypes.CFUNCTYPE(c_int, c_int32, c_void_p, c_void_p, c_size_t, c_void_p)),
        ("download", ctypes.CFUNCTYPE(c_int, c_int32, c_void_p, c_void_p, c_size_t, c_void_p)),
        ("synchronize", ctypes.CFUNCTYPE(c_int, c_int32, c_void_p)),
    ]


class GrpoError(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status = status
        self.refused = status == STATUS_DEVICE and "has no CUDA kernels" in text


def dl_tensor(array):
    """The DLTensor of an array; it keeps shape and strides alive, the caller keeps the memory."""
    code, bits = DTYPES[array.dtype]
    shape = (c_int64 * max(len(array.shape), 1))(*array.shape)
    strides = None if array.strides is None else (c_int64 * max(len(array.shape), 1))(*array.strides)
    tensor = DLTensor(array.pointer, CUDA, array.device, len(array.shape), code, bits, 1)
    tensor.shape = ctypes.cast(shape, POINTER(c_int64))
    if strides is not None:
        tensor.strides = ctypes.cast(strides, POINTER(c_int64))
    tensor.kept = (shape, strides)
    return tensor


class Field:
    """One member of an args struct, with its spec taken apart."""

    def __init__(self, source):
        self.name = source.name.decode()
        self.role, self.in_objective, self.offset = source.role, bool(source.in_objective), source.offset
        self.spec = source.spec.decode()
        if self.role == OPTION:
            kind, _, rest = self.spec.partition(" ")
            self.kind = kind.rstrip("?")
            self.choices = rest.split(" ")[0].split("|") if self.kind == "enum" else []
            sized = re.search(r"axis ([A-Z])", rest)
            self.axis = sized.group(1) if sized else None
        else:
            match = re.match(r"([~=]?)([\w|]*)\[([^\]]*)\]", self.spec)
            self.relation, self.types = match.group(1), match.group(2)
            self.axes = match.group(3).split(",")

    def option(self, value):
        """The C value of an option; a null one is NaN or -1."""
        if self.kind == "number":
            return c_double(math.nan if value is None else value)
        if self.kind == "integer":
            return c_int64(-1 if value is None else value)
        if value is None:
            return c_int32(-1)
        return c_int32(self.choices.index(value) if self.kind == "enum" else int(value))


class Call:
    """Arguments of one operation, written once and run many times."""

    def __init__(self, library, operation, arrays, outputs, options):
        self.library, self.operation, self.outputs = library, operation, outputs
        self.args = (c_char * operation.args_size)()
        self.objective = (c_char * operation.objective_size)()
        c_size_t.from_buffer(self.args).value = operation.args_size
        c_size_t.from_buffer(self.objective).value = operation.objective_size
        has_objective = operation.objective_offset >= 0
        objective = ctypes.addressof(self.objective) if has_objective else None
        library.must(library.api.defaults(operation.name.encode(), ctypes.addressof(self.args), objective))
        if has_objective:
            c_void_p.from_buffer(self.args, operation.objective_offset).value = objective
        self.kept = []
        for field in operation.fields:
            if field.role == OPTION and field.name in options:
                value = field.option(options[field.name])
                memory = self.objective if field.in_objective else self.args
                type(value).from_buffer(memory, field.offset).value = value.value
            elif field.role != OPTION:
                array = (arrays if field.role == INPUT else outputs).get(field.name)
                if array is not None:
                    tensor = dl_tensor(array)
                    self.kept.append((array, tensor))
                    c_void_p.from_buffer(self.args, field.offset).value = ctypes.addressof(tensor)
        self.address = ctypes.addressof(self.args)

    def __call__(self, stream=None):
        """Enqueues on a cudaStream_t and returns."""
        status = self.operation.run(self.address, stream)
        if status != 0:
            self.library.must(status)


class Operation:
    def __init__(self, source):
        self.name, self.args_size = source.name.decode(), source.args_size
        self.objective_offset, self.run = source.objective_offset, source.run
        self.fields = [Field(source.fields[i]) for i in range(source.field_count)]
        ends = [f.offset + ctypes.sizeof(f.option(None)) for f in self.fields if f.role == OPTION and f.in_objective]
        # A struct of doubles: its size is a multiple of theirs.
        self.objective_size = -(-max(ends, default=ctypes.sizeof(c_size_t)) // 8) * 8

    def output_specs(self, arrays, options, wanted):
        """(name, dtype, shape) of outputs: the first array that mentions an axis gives it its size."""
        size = {}
        for field in self.fields:
            if field.role == OPTION and field.axis and field.name in options:
                size[field.axis] = options[field.name]
        for field in self.fields:
            if field.role != INPUT or arrays.get(field.name) is None:
                continue
            for axis, length in zip(field.axes, arrays[field.name].shape):
                letter, _, plus = axis.rstrip("?").partition("+")
                if letter.isalpha():
                    size.setdefault(letter, length - int(plus or 0))
        specs = []
        for field in self.fields:
            if field.role != OUTPUT or field.name not in wanted:
                continue
            dtype = arrays[field.types].dtype if field.relation else field.types.split("|")[0]
            shape = []
            for axis in field.axes:
                letter, _, plus = axis.rstrip("?").partition("+")
                shape.append(size[letter] + int(plus or 0) if letter.isalpha() else int(letter))
            specs.append((field.name, dtype, tuple(shape)))
        return specs


class Library:
    def __init__(self, path):
        self.path = path
        self.loaded = ctypes.CDLL(path)
        entry = self.loaded.grpo_kernels_cuda_api
        entry.restype, entry.argtypes = POINTER(CudaApi), [c_uint32]
        found = entry(API_VERSION)
        if not found:
            raise GrpoError(STATUS_DEVICE, f"{path} is older than version {API_VERSION} of its interface")
        self.cuda = found.contents
        self.api = self.cuda.operations.contents
        pointers = [self.api.operations[i] for i in range(self.api.operation_count)]
        self.operations = {operation.name: operation for operation in (Operation(p.contents) for p in pointers)}

    def device_count(self):
        """The number of usable GPUs, and why there is none."""
        reason = c_char_p()
        count = self.cuda.device_count(ctypes.byref(reason))
        return count, (reason.value or b"").decode()

    def must(self, status):
        if status == 0:
            return
        error = ErrorStruct()
        self.api.last_error(ctypes.byref(error))
        parts = [(text or b"").decode() for text in (error.operation, error.argument, error.problem)]
        problem = re.sub(r"[{}]", "", parts[2])
        raise GrpoError(status, f"{parts[0]}: {parts[1]} {problem}".replace(":  ", ": "))

    def bind(self, name, arrays, wanted, options, allocate):
        """A call with outputs from allocate(dtype, shape). Names of arrays, outputs and options are the descriptor's."""
        operation = self.operations[name]
        roles = {role: {f.name for f in operation.fields if f.role == role} for role in (INPUT, OUTPUT, OPTION)}
        for role, given in ((INPUT, arrays), (OUTPUT, wanted), (OPTION, options)):
            unknown = set(given) - roles[role]
            if unknown:
                has, wrong = (", ".join(sorted(names)) for names in (roles[role], unknown))
                raise GrpoError(0, f"{name} has no {wrong}; it has {has}")
        specs = operation.output_specs(arrays, options, wanted)
        outputs = {name: allocate(dtype, shape) for name, dtype, shape in specs}
        return Call(self, operation, arrays, outputs, options)
