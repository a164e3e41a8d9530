"""Writes tests/fuzz/corpus/: small valid inputs from which the fuzzers start.

    python tests/fuzz/make_corpus.py
"""

import json
import pathlib
import struct

FOLDER = pathlib.Path(__file__).resolve().parent / "corpus"


def gguf(version, alignment=32):
    size = "<I" if version == 1 else "<Q"

    def string(text):
        data = text if isinstance(text, bytes) else text.encode()
        return struct.pack(size, len(data)) + data

    def array(kind, items):
        return struct.pack("<I", kind) + struct.pack(size, len(items)) + b"".join(items)

    values = [
        ("general.architecture", 8, string("llama")),
        ("u8", 0, struct.pack("<B", 7)),
        ("i8", 1, struct.pack("<b", -7)),
        ("u16", 2, struct.pack("<H", 700)),
        ("i16", 3, struct.pack("<h", -700)),
        ("u32", 4, struct.pack("<I", 70000)),
        ("i32", 5, struct.pack("<i", -70000)),
        ("f32", 6, struct.pack("<f", 0.5)),
        ("bool", 7, b"\x01"),
        ("u64", 10, struct.pack("<Q", 1 << 40)),
        ("i64", 11, struct.pack("<q", -(1 << 40))),
        ("f64", 12, struct.pack("<d", 0.1)),
        ("tokenizer.ggml.tokens", 9, array(8, [string("a"), string("中"), string(b"\xff")])),
        ("tokenizer.ggml.scores", 9, array(6, [struct.pack("<f", -i) for i in range(3)])),
        ("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", i) for i in range(3)])),
        ("bools", 9, array(7, [b"\x00", b"\x01"])),
        ("general.alignment", 4, struct.pack("<I", alignment)),
    ]
    # name, dims innermost first, type, bytes
    tensors = [
        ("token_embd.weight", [8, 3], 0, 96),
        ("blk.0.attn_norm.weight", [8], 0, 32),
        ("blk.0.ffn_up.weight", [32, 2], 8, 68),
        ("blk.0.ffn_down.weight", [256, 1, 1, 2], 12, 288),
        ("blk.0.attn_q.weight", [3, 2], 30, 12),
    ]
    out = b"GGUF" + struct.pack("<I", version) + struct.pack(size, len(tensors)) + struct.pack(size, len(values))
    for key, kind, data in values:
        out += string(key) + struct.pack("<I", kind) + data
    offset = 0
    for name, dims, kind, length in tensors:
        out += string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack(size, d) for d in dims)
        out += struct.pack("<IQ", kind, offset)
        offset += -(-length // alignment) * alignment
    out += b"\0" * (-len(out) % alignment)
    return out + bytes(i % 251 for i in range(offset))


def safetensors():
    header = {
        "__metadata__": {"format": "pt"},
        "model.norm.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
        "model.embed_tokens.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [8, 32]},
        "scalar": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
        "empty": {"dtype": "F16", "shape": [0, 5], "data_offsets": [40, 40]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(range(40))


def configs():
    llama = {
        "model_type": "llama", "hidden_act": "silu", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 101,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": [2, 3],
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 256},
    }
    qwen3 = {
        "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 101,
        "use_sliding_window": False, "sliding_window": 128,
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
                            "attention_factor": 1.2, "beta_fast": 32, "beta_slow": 1},
    }
    gpt2 = {
        "model_type": "gpt2", "activation_function": "gelu_new", "n_embd": 48, "n_head": 4,
        "n_layer": 2, "n_positions": 64, "vocab_size": 211, "layer_norm_epsilon": 1e-5,
    }
    gemma3 = {
        "model_type": "gemma3", "eos_token_id": [1, 106], "text_config": {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "head_dim": 32,
            "num_attention_heads": 4, "num_key_value_heads": 2, "query_pre_attn_scalar": 24,
            "sliding_window": 16, "final_logit_softcapping": 30.0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    }
    phi3 = {
        "model_type": "phi3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 101, "max_position_embeddings": 4096,
        "original_max_position_embeddings": 256, "partial_rotary_factor": 0.5, "sliding_window": 64,
        "rope_scaling": {"type": "su", "long_factor": [1.1, 2, 3.5, 9], "short_factor": [1, 1, 1.05, 1.1]},
    }
    generation = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": [2, 3]}
    yield "llama", json.dumps(llama).encode() + b"\0" + json.dumps(generation).encode()
    yield "qwen3", json.dumps(qwen3).encode()
    yield "gpt2", json.dumps(gpt2).encode()
    t5 = {
        "model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 3,
        "num_heads": 2, "vocab_size": 99, "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "decoder_start_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": False,
    }
    yield "t5", json.dumps(t5).encode()
    yield "bert", json.dumps({"model_type": "bert", "hidden_size": 8}).encode()
    yield "name-t5", b"decoder.block.1.layer.1.EncDecAttention.q.weight"
    yield "gemma3", json.dumps(gemma3).encode()
    yield "phi3", json.dumps(phi3).encode()
    yield "name-llama", b"model.layers.1.self_attn.q_proj.weight"
    yield "name-gpt2", b"transformer.h.1.attn.c_attn.bias"


def bodies():
    """Bodies of requests to the server, in the forms of all its APIs."""
    yield "chat", {
        "model": "stories", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi é \U0001f600"}]}],
        "temperature": 0.7, "n": 2, "stop": ["\n", ". "], "logit_bias": {"12": -3.5}, "seed": -5,
        "logprobs": True, "top_logprobs": 3, "stream": True, "stream_options": {"include_usage": True},
        "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "cache_salt": "s",
    }
    yield "completion", {"prompt": ["Once upon", [1, 2, 3]], "max_tokens": 4, "echo": True, "top_k": -1}
    yield "llama", {"prompt": [5, 6], "n_predict": -1, "logit_bias": [[3, 1.5], [4, False]], "mirostat": 0,
                    "n_probs": 2, "cache_prompt": False, "return_progress": True}
    yield "anthropic", {"system": [{"type": "text", "text": "Be brief."}], "max_tokens": 5,
                        "messages": [{"role": "user", "content": "Hi"}], "stop_sequences": ["x"],
                        "thinking": {"type": "disabled"}}
    yield "responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
                        "instructions": "Be brief.", "max_output_tokens": 3, "text": {"format": {"type": "text"}}}
    yield "tokens", {"content": "a <|im_end|> b", "tokens": [1, 2, 9], "with_pieces": True}


def connections():
    """What clients send: requests of several shapes, one after the other."""
    post = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    yield "get", b"GET /health?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "post", post % b"/v1" + b"Content-Length: 2\r\n\r\n{}"
    yield "chunked", post % b"/v1" + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nTrailer: x\r\n\r\n"
    yield "stream", post % b"/events" + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
    yield "old", b"POST /events HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"
    yield "expect", post % b"/v1" + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
    yield "head", b"HEAD /events HTTP/1.1\r\nHost: a\r\n\r\n"
    yield "refused", post % b"/refused" + b"Content-Length: 5000\r\n\r\n{}"
    yield "ahead", b"GET /a HTTP/1.1\r\n\r\n" + post % b"/b" + b"Content-Length: 1\r\n\r\nxGET /events HTTP/1.1\r\n\r\n"


def main():
    for reader in ("gguf", "safetensors", "hf_config", "requests", "http"):
        (FOLDER / reader).mkdir(parents=True, exist_ok=True)
    for version in (1, 2, 3):
        (FOLDER / "gguf" / f"v{version}").write_bytes(gguf(version))
    (FOLDER / "gguf" / "v3-align8").write_bytes(gguf(3, 8))
    (FOLDER / "safetensors" / "small").write_bytes(safetensors())
    for name, text in configs():
        (FOLDER / "hf_config" / name).write_bytes(text)
    for name, body in bodies():
        (FOLDER / "requests" / name).write_text(json.dumps(body))
    for name, data in connections():
        (FOLDER / "http" / name).write_bytes(data)


if __name__ == "__main__":
    main()
