"""Rewrites a GGUF file of version 1 as version 3, which llama.cpp still reads.

Version 1 counts with 32-bit integers where version 3 has 64-bit ones; the alignment of the tensor
data and everything else is the same.
"""

import struct

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 4

    def u32(self):
        self.at += 4
        return struct.unpack_from("<I", self.data, self.at - 4)[0]

    def take(self, count):
        self.at += count
        return self.data[self.at - count:self.at]


def _string(reader):
    """A string in version 3's form."""
    length = reader.u32()
    return struct.pack("<Q", length) + reader.take(length)


def _value(reader, kind):
    """A metadata value in version 3's form."""
    if kind == _STRING:
        return _string(reader)
    if kind == _ARRAY:
        inner, count = reader.u32(), reader.u32()
        return struct.pack("<IQ", inner, count) + b"".join(_value(reader, inner)
                                                           for _ in range(count))
    return reader.take(_SCALAR_BYTES[kind])


def _tensor_info(reader):
    out = [_string(reader)]
    dimensions = reader.u32()
    out.append(struct.pack("<I", dimensions))
    out += [struct.pack("<Q", reader.u32()) for _ in range(dimensions)]
    out.append(reader.take(4 + 8))  # type and offset
    return b"".join(out)


def convert(source, target):
    """Writes `target` as version 3; copies a file that is not version 1 as it is."""
    data = source.read_bytes()
    reader = _Reader(data)
    if data[:4] != b"GGUF" or reader.u32() != 1:
        target.write_bytes(data)
        return
    tensors, pairs = reader.u32(), reader.u32()
    out = [b"GGUF", struct.pack("<IQQ", 3, tensors, pairs)]
    for _ in range(pairs):
        key = _string(reader)
        kind = reader.u32()
        out += [key, struct.pack("<I", kind), _value(reader, kind)]
    out += [_tensor_info(reader) for _ in range(tensors)]
    header = b"".join(out)
    header += b"\0" * (-len(header) % _ALIGNMENT)
    start = reader.at + -reader.at % _ALIGNMENT
    target.write_bytes(header + data[start:])
