"""llama.cpp through its C interface: logits for given token ids, and timings.

The shared libraries come prebuilt from npm (`@node-llama-cpp/linux-x64`, pinned in package.json),
with one compute library per kind of CPU; llama.cpp itself chooses the best one for this machine.

The package has no headers. The interface passes its parameter structs by value, so this file needs
to know where a few fields lie; it compares them with the defaults that the library itself hands out
and refuses to work when those are not where the pinned version has them. Passing a struct that is
larger than the callee's is harmless: it lies on the stack and only its front is read.
"""

import ctypes
import pathlib
import struct

PACKAGE = pathlib.Path(__file__).resolve().parent / "node_modules/@node-llama-cpp/linux-x64"

_STRUCT_BYTES = 512  # more than either parameter struct has

# Offsets in llama_context_params, with the default found there: (offset, struct format, default).
_CONTEXT_FIELDS = {
    "n_ctx": (0, "I", 512),
    "n_batch": (4, "I", 2048),
    "n_ubatch": (8, "I", 512),
    "n_seq_max": (12, "I", 1),
    "n_threads": (28, "i", 4),
    "n_threads_batch": (32, "i", 4),
    "flash_attn_type": (52, "i", -1),  # -1 automatic, 0 off, 1 on
    "type_k": (104, "i", 1),           # a ggml type: 1 is F16
    "type_v": (108, "i", 1),
}
# Offsets in llama_model_params.
_MODEL_FIELDS = {"n_gpu_layers": (16, "i", -1)}
_USE_EXTRA_BUFFERS_OFFSET = 74  # bool: repack weights for the CPU's own kernels

KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2}


class _Params(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * _STRUCT_BYTES)]

    def read(self, offset, form):
        return struct.unpack_from("<" + form, bytes(self.bytes), offset)[0]

    def write(self, offset, form, value):
        packed = struct.pack("<" + form, value)
        for i, byte in enumerate(packed):
            self.bytes[offset + i] = byte

    def check(self, fields, what):
        for name, (offset, form, default) in fields.items():
            found = self.read(offset, form)
            if found != default:
                raise RuntimeError(f"{what}.{name} at byte {offset} should default to {default} "
                                   f"and is {found}: not the pinned version of llama.cpp")


class _Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)),
                ("embd", ctypes.c_void_p), ("pos", ctypes.POINTER(ctypes.c_int32)),
                ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
                ("logits", ctypes.POINTER(ctypes.c_int8))]


class LlamaCpp:
    """The loaded library. One per process."""

    def __init__(self, package=PACKAGE):
        folders = sorted(package.glob("bins/linux-x64*"))
        if not folders:
            raise FileNotFoundError(f"no llama.cpp in {package}: run `npm ci` in tests/peer")
        folder = folders[0]
        for pattern in ("libggml-base.so", "libggml.*so", "libllama.*so"):
            library = ctypes.CDLL(str(next(folder.glob(pattern))), mode=ctypes.RTLD_GLOBAL)
            if pattern.startswith("libggml."):
                ggml = library
        self.lib = library
        self._log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
            self._keep_log)
        self.errors = []
        self._declare()
        self.lib.llama_log_set(self._log, None)
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
        self.lib.llama_backend_init()

    def _keep_log(self, level, text, _data):
        """Errors and warnings only (levels 3 and 4 of ggml)."""
        if level >= 3:
            self.errors.append(text.decode(errors="replace").rstrip())

    def _declare(self):
        lib, pointer = self.lib, ctypes.c_void_p
        lib.llama_model_default_params.restype = _Params
        lib.llama_context_default_params.restype = _Params
        lib.llama_model_load_from_file.restype = pointer
        lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Params]
        lib.llama_init_from_model.restype = pointer
        lib.llama_init_from_model.argtypes = [pointer, _Params]
        lib.llama_model_get_vocab.restype = pointer
        lib.llama_model_get_vocab.argtypes = [pointer]
        lib.llama_vocab_n_tokens.argtypes = [pointer]
        lib.llama_model_free.argtypes = [pointer]
        lib.llama_free.argtypes = [pointer]
        lib.llama_decode.argtypes = [pointer, _Batch]
        lib.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
        lib.llama_get_logits_ith.argtypes = [pointer, ctypes.c_int32]
        lib.llama_get_memory.restype = pointer
        lib.llama_get_memory.argtypes = [pointer]
        lib.llama_memory_clear.argtypes = [pointer, ctypes.c_bool]
        lib.llama_memory_seq_rm.argtypes = [pointer, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]
        lib.llama_memory_seq_rm.restype = ctypes.c_bool
        lib.llama_synchronize.argtypes = [pointer]
        lib.llama_print_system_info.restype = ctypes.c_char_p
        lib.llama_model_default_params().check(_MODEL_FIELDS, "llama_model_params")
        lib.llama_context_default_params().check(_CONTEXT_FIELDS, "llama_context_params")

    def last_errors(self):
        return " | ".join(self.errors[-3:])

    def system_info(self):
        return self.lib.llama_print_system_info().decode()


class Session:
    """One model and one context; positions of each sequence count up from 0. `context` counts the
    tokens of all sequences, of which each gets an equal share."""

    def __init__(self, llama, path, *, threads=2, kv="f32", context=512, batch=512, repack=True,
                 flash=-1, sequences=1):
        self.llama, self.lib = llama, llama.lib
        model_params = self.lib.llama_model_default_params()
        model_params.write(_USE_EXTRA_BUFFERS_OFFSET, "?", repack)
        llama.errors.clear()
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}: {llama.last_errors()}")
        self.vocab = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        params = self.lib.llama_context_default_params()
        for name, value in {"n_ctx": context, "n_batch": max(batch, 32), "n_ubatch": max(batch, 32),
                            "n_seq_max": sequences, "n_threads": threads, "n_threads_batch": threads,
                            "flash_attn_type": flash,
                            "type_k": KV_TYPES[kv], "type_v": KV_TYPES[kv]}.items():
            offset, form, _ = _CONTEXT_FIELDS[name]
            params.write(offset, form, value)
        self.context = self.lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp: no context for {path}: {llama.last_errors()}")
        self.batch_max = max(batch, 32)
        self.positions = [0] * sequences

    def close(self):
        self.lib.llama_free(self.context)
        self.lib.llama_model_free(self.model)

    def clear(self):
        """Forgets all tokens."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.positions = [0] * len(self.positions)

    def truncate(self, tokens, sequence=0):
        """Forgets every token of a sequence from position `tokens` on."""
        memory = self.lib.llama_get_memory(self.context)
        if not self.lib.llama_memory_seq_rm(memory, sequence, tokens, -1):
            raise RuntimeError("llama.cpp could not truncate its cache")
        self.positions[sequence] = tokens

    def feed(self, tokens, every=False):
        """Runs tokens; returns the logits of the last one, or of every one, as lists of floats."""
        rows = []
        for start in range(0, len(tokens), self.batch_max):
            part = tokens[start:start + self.batch_max]
            self.decode(part, every)
            wanted = range(len(part)) if every else [len(part) - 1]
            rows += [self.logits(i) for i in wanted]
        return rows if every else rows[-1]

    def decode(self, part, every=False, sequence=0):
        """One llama_decode of at most batch_max tokens of one sequence."""
        wanted = [1] * len(part) if every else [0] * (len(part) - 1) + [1]
        self._decode(part, [sequence] * len(part), wanted)

    def decode_step(self, tokens):
        """One llama_decode of one token for each sequence, with the logits of all."""
        self._decode(tokens, range(len(tokens)), [1] * len(tokens))

    def _decode(self, tokens, sequences, wanted):
        n = len(tokens)
        ints, int_pointer = ctypes.c_int32 * n, ctypes.POINTER(ctypes.c_int32)
        positions = []
        for sequence in sequences:
            positions.append(self.positions[sequence])
            self.positions[sequence] += 1
        ids = [ctypes.cast((ctypes.c_int32 * 1)(sequence), int_pointer) for sequence in sequences]
        batch = _Batch(n_tokens=n, token=ints(*tokens), embd=None, pos=ints(*positions),
                       n_seq_id=ints(*([1] * n)), seq_id=(int_pointer * n)(*ids),
                       logits=(ctypes.c_int8 * n)(*wanted))
        code = self.lib.llama_decode(self.context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}: {self.llama.last_errors()}")
        self.lib.llama_synchronize(self.context)

    def logits(self, index):
        pointer = self.lib.llama_get_logits_ith(self.context, index)
        return pointer[:self.vocab]
