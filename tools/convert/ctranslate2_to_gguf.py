#!/usr/bin/env python3
"""Converts a CTranslate2 translation model into a GGUF file (architecture `transformer`, F32).

    python3 tools/convert/ctranslate2_to_gguf.py FOLDER aren.gguf

FOLDER holds model.bin, source_vocabulary.txt and target_vocabulary.txt. Converted are models of the
kinds TransformerBase (8 heads) and TransformerBig (16) with f32 weights and vocabularies of single
characters. model.bin, little endian; a text is u16 length with the NUL, bytes, NUL:

    u32 version (2) | text kind | u32 revision | u32 count
    count times: text name | u8 rank | u32 dimensions[rank] | u8 bytes of an item | u32 items | data

What such a model computes is part of its kind, not of the file: sinusoidal positions that count from
1, sines before cosines, down to the frequency 1/10000; embeddings times sqrt(width); ReLU; LayerNorm
with epsilon 1e-5 before each part where the encoder has a norm of its own at the end, else after each
part. The decoder begins with <s>, the encoder reads the characters alone, and the token behind the
last of a vocabulary file is the unknown one. All of this goes into the GGUF file as keys
(src/model/transformer.cc lists them), and that the likeliest token is wanted: a temperature of 0.
SOURCE: OpenNMT's CTranslate2 (model reader, position encoder, layer norm), read and not copied.
"""

import argparse
import math
import pathlib
import struct
import sys

from gguf_file import (ARRAY, BOOL, CONTROL, F32, I32, NORMAL, STRING, U32, UNKNOWN, ConvertError, array,
                       entry, string, write_gguf)

HEADS = {"TransformerBase": 8, "TransformerBig": 16}
START, END = "<s>", "</s>"
SPECIALS = {"<blank>", "<pad>", START, END}


class Reader:
    """Takes numbers, texts and bytes off the front of a file."""

    def __init__(self, path):
        self.path, self.data, self.at = path, memoryview(path.read_bytes()), 0

    def bytes(self, size):
        if size > len(self.data) - self.at:
            raise ConvertError(f"{self.path}: at byte {self.at}: expected {size} more bytes, found "
                               f"{len(self.data) - self.at}")
        part = self.data[self.at : self.at + size]
        self.at += size
        return part

    def number(self, form):
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))[0]

    def text(self):
        raw = bytes(self.bytes(self.number("H")))
        if not raw.endswith(b"\0"):
            raise ConvertError(f"{self.path}: at byte {self.at}: expected a text that ends with NUL")
        return raw[:-1].decode("utf-8", errors="replace")


class Variables:
    """The named tensors of a model.bin; each is taken once."""

    def __init__(self, path):
        reader = Reader(path)
        self.path = path
        version = reader.number("I")
        if version != 2:
            raise ConvertError(f"{path}: CTranslate2 binary version {version}; expected 2")
        self.kind, _revision = reader.text(), reader.number("I")
        self.tensors = {}
        for _ in range(reader.number("I")):
            name = reader.text()
            shape = tuple(reader.number("I") for _ in range(reader.number("B")))
            item, count = reader.number("B"), reader.number("I")
            data = reader.bytes(item * count)
            if math.prod(shape) != count:
                raise ConvertError(f"{path}: '{name}' has shape {shape} and {count} items")
            self.tensors[name] = (data, shape, item)

    def has(self, name):
        return name in self.tensors

    def take(self, name, *shape):
        """(data, shape) of an f32 tensor of this shape."""
        if name not in self.tensors:
            raise ConvertError(f"{self.path}: no tensor '{name}'")
        data, found, item = self.tensors.pop(name)
        if item != 4:
            raise ConvertError(f"{self.path}: '{name}' has items of {item} bytes; only f32 is converted")
        if found != shape:
            raise ConvertError(f"{self.path}: '{name}' has shape {found}; expected {shape}")
        return data, shape

    def shape(self, name):
        if name not in self.tensors:
            raise ConvertError(f"{self.path}: no tensor '{name}'")
        return self.tensors[name][1]


def norm(variables, source, target, width):
    return [(target + ".weight", variables.take(source + "/gamma", width)),
            (target + ".bias", variables.take(source + "/beta", width))]


def linear(variables, source, targets, rows, columns):
    """A weight and bias of len(targets) * rows rows, cut into one layer for each target."""
    weight, _ = variables.take(source + "/weight", len(targets) * rows, columns)
    bias, _ = variables.take(source + "/bias", len(targets) * rows)
    tensors = []
    for i, target in enumerate(targets):
        part = weight[4 * i * rows * columns : 4 * (i + 1) * rows * columns]
        tensors.append((target + ".weight", (part, (rows, columns))))
        tensors.append((target + ".bias", (bias[4 * i * rows : 4 * (i + 1) * rows], (rows,))))
    return tensors


def self_attention(variables, source, block, width):
    return (norm(variables, f"{source}/self_attention/layer_norm", block + "attn_norm", width)
            + linear(variables, f"{source}/self_attention/linear_0",
                     [block + "attn_q", block + "attn_k", block + "attn_v"], width, width)
            + linear(variables, f"{source}/self_attention/linear_1", [block + "attn_o"], width, width))


def cross_attention(variables, source, block, width):
    return (norm(variables, f"{source}/attention/layer_norm", block + "cross_attn_norm", width)
            + linear(variables, f"{source}/attention/linear_0", [block + "cross_attn_q"], width, width)
            + linear(variables, f"{source}/attention/linear_1",
                     [block + "cross_attn_k", block + "cross_attn_v"], width, width)
            + linear(variables, f"{source}/attention/linear_2", [block + "cross_attn_o"], width, width))


def feed_forward(variables, source, block, width, inner):
    return (norm(variables, f"{source}/ffn/layer_norm", block + "ffn_norm", width)
            + linear(variables, f"{source}/ffn/linear_0", [block + "ffn_up"], inner, width)
            + linear(variables, f"{source}/ffn/linear_1", [block + "ffn_down"], width, inner))


def layers_of(variables, stack):
    layer = 0
    while variables.has(f"{stack}/layer_{layer}/ffn/layer_norm/gamma"):
        layer += 1
    if layer == 0:
        raise ConvertError(f"{variables.path}: no layer 0 of the {stack}")
    return layer


def convert(variables):
    """Returns (configuration, [(GGUF name, (bytes, shape))])."""
    if variables.kind not in HEADS:
        raise ConvertError(f"{variables.path}: a model of kind '{variables.kind}'; converted are "
                           f"{', '.join(HEADS)}")
    sources, width = variables.shape("encoder/embeddings/weight")
    targets = variables.shape("decoder/embeddings/weight")[0]
    inner = variables.shape("encoder/layer_0/ffn/linear_0/weight")[0]
    heads = HEADS[variables.kind]
    if width % heads:
        raise ConvertError(f"{variables.path}: width {width} does not divide into {heads} heads")
    before = variables.has("encoder/layer_norm/gamma")
    encoder, decoder = layers_of(variables, "encoder"), layers_of(variables, "decoder")
    tensors = [("token_embd.weight", variables.take("decoder/embeddings/weight", targets, width)),
               ("enc.token_embd.weight", variables.take("encoder/embeddings/weight", sources, width))]
    tensors += linear(variables, "decoder/projection", ["output"], targets, width)
    if before:
        tensors += norm(variables, "encoder/layer_norm", "enc.output_norm", width)
        tensors += norm(variables, "decoder/layer_norm", "dec.output_norm", width)
    for layer in range(encoder):
        source, block = f"encoder/layer_{layer}", f"enc.blk.{layer}."
        tensors += self_attention(variables, source, block, width)
        tensors += feed_forward(variables, source, block, width, inner)
    for layer in range(decoder):
        source, block = f"decoder/layer_{layer}", f"dec.blk.{layer}."
        tensors += self_attention(variables, source, block, width)
        tensors += cross_attention(variables, source, block, width)
        tensors += feed_forward(variables, source, block, width, inner)
    if variables.tensors:
        raise ConvertError(f"{variables.path}: unknown tensors: {', '.join(sorted(variables.tensors))}")
    return dict(width=width, inner=inner, heads=heads, before=before, encoder=encoder, decoder=decoder,
                sources=sources, targets=targets), tensors


def read_vocabulary(path, count):
    """The entries of a vocabulary file and the unknown token, which the file leaves out."""
    entries = path.read_text(encoding="utf-8").split("\n")
    if entries and entries[-1] == "":
        entries.pop()
    if len(entries) + 1 != count:
        raise ConvertError(f"{path}: {len(entries)} entries; expected {count - 1}, one less than the "
                           "embedding has rows")
    for line, text in enumerate(entries):
        if text not in SPECIALS and len(text) != 1:
            raise ConvertError(f"{path}: line {line + 1}: {text!r} is not one character; vocabularies "
                               "of pieces are not converted")
    return entries + ["<unk>"]


def vocabulary_entries(prefix, tokens):
    def id_of(name, text):
        if text not in tokens:
            return []
        return [entry(f"{prefix}{name}_token_id", U32, struct.pack("<I", tokens.index(text)))]

    kinds = [UNKNOWN if text == "<unk>" else CONTROL if text in SPECIALS else NORMAL for text in tokens]
    no = struct.pack("<?", False)
    return ([entry(prefix + "model", STRING, string("characters")),
             entry(prefix + "tokens", ARRAY, array(STRING, [string(text) for text in tokens])),
             entry(prefix + "token_type", ARRAY, array(I32, [struct.pack("<i", kind) for kind in kinds])),
             entry(prefix + "add_bos_token", BOOL, no), entry(prefix + "add_eos_token", BOOL, no)]
            + id_of("bos", START) + id_of("eos", END) + id_of("unknown", "<unk>")
            + id_of("padding", "<blank>"))


def metadata(name, config, context, source_tokens, target_tokens):
    def size(key, value):
        return entry(key, U32, struct.pack("<I", value))

    def real(key, value):
        return entry(key, F32, struct.pack("<f", value))

    def word(key, value):
        return entry(key, STRING, string(value))

    if START not in target_tokens or END not in target_tokens:
        raise ConvertError(f"the target vocabulary has no {START} or no {END}")
    return [
        word("general.architecture", "transformer"),
        word("general.name", name),
        size("general.file_type", 0),
        real("general.sampling.temp", 0),
        size("transformer.context_length", context),
        size("transformer.embedding_length", config["width"]),
        size("transformer.block_count", config["encoder"]),
        size("transformer.decoder_block_count", config["decoder"]),
        size("transformer.feed_forward_length", config["inner"]),
        size("transformer.attention.head_count", config["heads"]),
        real("transformer.attention.layer_norm_epsilon", 1e-5),
        size("transformer.decoder_start_token_id", target_tokens.index(START)),
        word("transformer.norm_placement", "before" if config["before"] else "after"),
        word("transformer.activation", "relu"),
        real("transformer.embedding_scale", math.sqrt(config["width"])),
        word("transformer.position.layout", "halves"),
        word("transformer.position.frequencies", "inclusive"),
        size("transformer.position.first", 1),
        size("transformer.vocab_size", config["targets"]),
        *vocabulary_entries("tokenizer.ggml.", target_tokens),
        *vocabulary_entries("tokenizer.input.", source_tokens),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--context", type=int, default=512,
                        help="most tokens of an input and of an output (default: 512)")
    arguments = parser.parse_args()
    try:
        config, tensors = convert(Variables(arguments.folder / "model.bin"))
        source_tokens = read_vocabulary(arguments.folder / "source_vocabulary.txt", config["sources"])
        target_tokens = read_vocabulary(arguments.folder / "target_vocabulary.txt", config["targets"])
        name = arguments.folder.resolve().name
        write_gguf(arguments.output,
                   metadata(name, config, arguments.context, source_tokens, target_tokens), tensors)
    except (ConvertError, OSError, UnicodeDecodeError) as error:
        print(f"ctranslate2_to_gguf: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {len(tensors)} tensors, {config['sources']} input and "
          f"{config['targets']} output tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
