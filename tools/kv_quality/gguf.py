"""Reads the metadata and the tensors of a small GGUF file as float32 torch tensors."""

import struct

import numpy as np
import torch

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_F32, _F16, _Q8_0, _BF16 = 0, 1, 8, 30


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 4
        self.count = "I" if self.scalar("I") == 1 else "Q"

    def scalar(self, kind):
        value = struct.unpack_from("<" + kind, self.data, self.at)[0]
        self.at += struct.calcsize("<" + kind)
        return value

    def string(self):
        size = self.scalar(self.count)
        self.at += size
        return self.data[self.at - size:self.at].decode("utf-8", "replace")

    def value(self, kind):
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, size = self.scalar("I"), self.scalar(self.count)
            return [self.value(inner) for _ in range(size)]
        return self.scalar(_SCALARS[kind])


def _floats(data, kind, count, at):
    if kind == _F32:
        return np.frombuffer(data, np.float32, count, at)
    if kind == _F16:
        return np.frombuffer(data, np.float16, count, at).astype(np.float32)
    if kind == _BF16:
        return (np.frombuffer(data, np.uint16, count, at).astype(np.uint32) << 16).view(np.float32)
    if kind == _Q8_0:
        blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "i1", 32)]), count // 32, at)
        return blocks["q"].astype(np.float32) * blocks["d"].astype(np.float32)[:, None]
    raise SystemExit(f"tensor type {kind}: only f32, f16, bf16 and q8_0 are read here")


def read(path):
    """(metadata, tensors by name)"""
    data = path.read_bytes()
    if data[:4] != b"GGUF":
        raise SystemExit(f"{path}: not a GGUF file")
    reader = _Reader(data)
    tensors, pairs = reader.scalar(reader.count), reader.scalar(reader.count)
    metadata = {}
    for _ in range(pairs):
        key = reader.string()
        metadata[key] = reader.value(reader.scalar("I"))
    infos = []
    for _ in range(tensors):
        name = reader.string()
        shape = [reader.scalar(reader.count) for _ in range(reader.scalar("I"))][::-1]
        infos.append((name, shape, reader.scalar("I"), reader.scalar("Q")))
    start = reader.at + -reader.at % metadata.get("general.alignment", 32)
    found = {}
    for name, shape, kind, offset in infos:
        floats = _floats(data, kind, int(np.prod(shape)), start + offset)
        found[name] = torch.from_numpy(floats.reshape(shape).copy())
    return metadata, found
