"""Read the weights of one of our GGUF files (F32, BF16 or Q8_0) back into a state dict
of model.py, so that training can go on from a model that was shipped.
"""

import struct

import numpy as np
import torch

from model import Config


def read(path):
    """Metadata and tensors (as float32) of a GGUF file."""
    data, at = open(path, "rb").read(), 4

    def number(code):
        nonlocal at
        value = struct.unpack_from("<" + code, data, at)[0]
        at += struct.calcsize("<" + code)
        return value

    def string():
        nonlocal at
        size = number("Q")
        at += size
        return data[at - size:at].decode("utf-8", "replace")

    codes = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            kind, size = number("I"), number("Q")
            return [value(kind) for _ in range(size)]
        return number(codes[kind])

    if data[:4] != b"GGUF":
        raise SystemExit(f"{path}: not a GGUF file")
    number("I")
    tensors, pairs = number("Q"), number("Q")
    meta = {}
    for _ in range(pairs):
        key = string()
        meta[key] = value(number("I"))
    infos = []
    for _ in range(tensors):
        name = string()
        shape = [number("Q") for _ in range(number("I"))]
        infos.append((name, shape[::-1], number("I"), number("Q")))
    base = -(-at // 32) * 32
    result = {}
    for name, shape, kind, offset in infos:
        count, begin = int(np.prod(shape)), base + offset
        if kind == 0:
            flat = np.frombuffer(data, np.float32, count, begin).copy()
        elif kind == 30:
            flat = (np.frombuffer(data, np.uint16, count, begin).astype(np.uint32) << 16).view(np.float32)
        elif kind == 8:
            block = np.frombuffer(data, np.dtype([("scale", "<f2"), ("q", "i1", 32)]), count // 32, begin)
            flat = (block["scale"].astype(np.float32)[:, None] * block["q"].astype(np.float32)).reshape(-1)
        else:
            raise SystemExit(f"{path}: tensor {name} has type {kind}; known: F32, BF16, Q8_0")
        result[name] = torch.from_numpy(flat.reshape(shape))
    return meta, result


def half_split(w, heads):
    """Undo the row order of Q and K in GGUF (pairs side by side) for model.py's rope."""
    return w.view(heads, w.shape[0] // heads // 2, 2, -1).transpose(1, 2).reshape(w.shape).contiguous()


def load(path):
    """Configuration and state dict."""
    meta, t = read(path)
    m = {k.removeprefix("llama."): v for k, v in meta.items()}
    c = Config(m["vocab_size"], m["embedding_length"], m["block_count"], m["attention.head_count"],
               m["attention.head_count_kv"], m["attention.key_length"], m["feed_forward_length"],
               m["context_length"], m["rope.freq_base"])
    state = {"model.embed_tokens.weight": t["token_embd.weight"], "model.norm.weight": t["output_norm.weight"]}
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for i in range(c.layers):
        for ours, theirs in names.items():
            w = t[f"blk.{i}.{theirs}.weight"]
            if theirs in ("attn_q", "attn_k"):
                w = half_split(w, c.heads if theirs == "attn_q" else c.kv_heads)
            state[f"model.layers.{i}.{ours}.weight"] = w
    return c, state
