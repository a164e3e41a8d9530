"""What the converters of this folder share: the bytes of a GGUF file (version 3), and their errors.

A tensor is (name, (data, shape)): little-endian f32 bytes, row-major. SOURCE: GGUF specification.
"""

import struct

ALIGNMENT = 32
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # tokenizer.ggml.token_type


class ConvertError(Exception):
    """A message for the user."""


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, data):
    return string(key) + struct.pack("<I", kind) + data


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def write_gguf(path, entries, tensors):
    table, offset = b"", 0
    for name, (data, shape) in tensors:
        table += string(name) + struct.pack("<I", len(shape))
        table += b"".join(struct.pack("<Q", d) for d in reversed(shape))
        table += struct.pack("<IQ", 0, offset)
        offset += -(-len(data) // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + table
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for _, (data, _) in tensors:
            file.write(data)
            file.write(b"\0" * (-len(data) % ALIGNMENT))
    temporary.rename(path)
