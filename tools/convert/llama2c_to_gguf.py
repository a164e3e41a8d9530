#!/usr/bin/env python3
"""Converts a llama2.c checkpoint and its tokenizer into a GGUF file (version 3, F32).

    python tools/convert/llama2c_to_gguf.py stories260K.bin tok512.bin stories260K.gguf

llama2.c's first format, little endian:

    i32 dim, hidden, layers, heads, kv_heads, vocabulary (negative: untied head), context
    f32 token_embd | attn_norm | wq | wk | wv | wo | ffn_norm | w1 (gate) | w2 (down) | w3 (up)
        | output_norm | two unused tables of context * head_size / 2 | output, when untied

Each per-layer part holds all layers one after the other. Rotary pairs are neighbours (2i, 2i+1), as
in GGUF's `llama`, so no row moves. The tokenizer file:

    i32 longest token | per token: f32 score, i32 length, bytes

SOURCE: the reader in llama2.c (run.c) for both files; GGUF specification for the output.
"""

import argparse
import math
import pathlib
import struct
import sys

from gguf_file import (ARRAY, BYTE, CONTROL, F32, I32, NORMAL, STRING, U32, UNKNOWN, ConvertError, array,
                       entry, string, write_gguf)


class Floats:
    """Takes tensors off the front of a checkpoint: (bytes, shape) pairs; f32 stays f32."""

    def __init__(self, data, path):
        self.data, self.path, self.at = data, path, 0

    def take(self, *shape):
        size = 4 * math.prod(shape)
        if size > len(self.data) - self.at:
            left = len(self.data) - self.at
            raise ConvertError(f"{self.path}: expected {size} bytes for a tensor {shape}, found {left}")
        part = self.data[self.at : self.at + size]
        self.at += size
        return part, shape


def read_checkpoint(path):
    """Returns (configuration, [(GGUF name, (bytes, shape))])."""
    raw = path.read_bytes()
    if len(raw) < 28:
        raise ConvertError(f"{path}: {len(raw)} bytes; a llama2.c checkpoint has at least 28")
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack("<7i", raw[:28])
    tied, vocabulary = vocabulary > 0, abs(vocabulary)
    sizes = (dim, hidden, layers, heads, kv_heads, vocabulary, context)
    if min(sizes) < 1 or max(sizes) > 1 << 24 or dim % heads or heads % kv_heads:
        raise ConvertError(f"{path}: sizes {sizes} make no llama2.c model (newer formats start with 'ak42')")
    head_size = dim // heads
    floats = Floats(memoryview(raw)[28:], path)
    tensors = [("token_embd.weight", floats.take(vocabulary, dim))]
    layered = [
        ("attn_norm", (dim,)), ("attn_q", (dim, dim)), ("attn_k", (kv_heads * head_size, dim)),
        ("attn_v", (kv_heads * head_size, dim)), ("attn_output", (dim, dim)), ("ffn_norm", (dim,)),
        ("ffn_gate", (hidden, dim)), ("ffn_down", (dim, hidden)), ("ffn_up", (hidden, dim)),
    ]
    for name, shape in layered:
        for layer in range(layers):
            tensors.append((f"blk.{layer}.{name}.weight", floats.take(*shape)))
    tensors.append(("output_norm.weight", floats.take(dim)))
    floats.take(2, context, head_size // 2)
    if not tied:
        tensors.append(("output.weight", floats.take(vocabulary, dim)))
    config = dict(dim=dim, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads,
                  vocabulary=vocabulary, context=context, head_size=head_size)
    return config, tensors


def read_tokenizer(path, count):
    """Returns (tokens as bytes in SentencePiece's spelling, scores, types)."""
    raw, at = path.read_bytes(), 4
    tokens, scores, types = [], [], []
    for token_id in range(count):
        if at + 8 > len(raw):
            raise ConvertError(f"{path}: ends before token {token_id} of {count}")
        score, length = struct.unpack_from("<fi", raw, at)
        at += 8
        if length < 0 or at + length > len(raw):
            raise ConvertError(f"{path}: token {token_id} has length {length}; {len(raw) - at} bytes are left")
        text, kind = raw[at : at + length], NORMAL
        at += length
        if token_id < 3:
            text, kind = (b"<unk>", b"<s>", b"</s>")[token_id], UNKNOWN if token_id == 0 else CONTROL
        elif token_id < 259:
            text, kind = f"<0x{token_id - 3:02X}>".encode(), BYTE
        else:
            text = text.replace(b" ", "\u2581".encode())
        tokens.append(text)
        scores.append(score)
        types.append(kind)
    return tokens, scores, types


def metadata(name, config, tokenizer):
    tokens, scores, types = tokenizer

    def size(key, value):
        return entry(key, U32, struct.pack("<I", value))

    return [
        entry("general.architecture", STRING, string("llama")),
        entry("general.name", STRING, string(name)),
        size("general.file_type", 0),
        size("llama.context_length", config["context"]),
        size("llama.embedding_length", config["dim"]),
        size("llama.block_count", config["layers"]),
        size("llama.feed_forward_length", config["hidden"]),
        size("llama.attention.head_count", config["heads"]),
        size("llama.attention.head_count_kv", config["kv_heads"]),
        size("llama.rope.dimension_count", config["head_size"]),
        size("llama.vocab_size", config["vocabulary"]),
        entry("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)),
        entry("tokenizer.ggml.model", STRING, string("llama")),
        entry("tokenizer.ggml.tokens", ARRAY, array(STRING, [string(t) for t in tokens])),
        entry("tokenizer.ggml.scores", ARRAY, array(F32, [struct.pack("<f", s) for s in scores])),
        entry("tokenizer.ggml.token_type", ARRAY, array(I32, [struct.pack("<i", t) for t in types])),
        size("tokenizer.ggml.unknown_token_id", 0),
        size("tokenizer.ggml.bos_token_id", 1),
        size("tokenizer.ggml.eos_token_id", 2),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    arguments = parser.parse_args()
    try:
        config, tensors = read_checkpoint(arguments.checkpoint)
        tokenizer = read_tokenizer(arguments.tokenizer, config["vocabulary"])
        write_gguf(arguments.output, metadata(arguments.checkpoint.stem, config, tokenizer), tensors)
    except (ConvertError, OSError) as error:
        print(f"llama2c_to_gguf: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {len(tensors)} tensors, {config['vocabulary']} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
