"""Writes a small GGUF file from the reference implementation's weights, and gives back the weights
that a reader will see.

Names, row order and metadata follow what llama.cpp's converter writes, stated here from the
description of the format and not shared with quipu's own reader: agreement between the two is the
test.
"""

import math
import re

import numpy as np
from gguf import GGMLQuantizationType as QT
from gguf import GGUFWriter, RopeScalingType

import block_quant

# Reference name (without its "model." or "transformer." prefix) -> GGUF name.
_LLAMA_LIKE = {
    "embed_tokens.": "token_embd.",
    "norm.": "output_norm.",
    "lm_head.": "output.",
    "input_layernorm.": "attn_norm.",
    "post_attention_layernorm.": "ffn_norm.",
    "self_attn.q_proj.": "attn_q.",
    "self_attn.k_proj.": "attn_k.",
    "self_attn.v_proj.": "attn_v.",
    "self_attn.o_proj.": "attn_output.",
    "self_attn.q_norm.": "attn_q_norm.",
    "self_attn.k_norm.": "attn_k_norm.",
    "self_attn.qkv_proj.": "attn_qkv.",
    "mlp.gate_proj.": "ffn_gate.",
    "mlp.up_proj.": "ffn_up.",
    "mlp.gate_up_proj.": "ffn_up.",
    "mlp.down_proj.": "ffn_down.",
}
_GPT2_LIKE = {
    "wte.": "token_embd.",
    "wpe.": "position_embd.",
    "ln_f.": "output_norm.",
    "lm_head.": "output.",
    "ln_1.": "attn_norm.",
    "ln_2.": "ffn_norm.",
    "attn.c_attn.": "attn_qkv.",
    "attn.c_proj.": "attn_output.",
    "mlp.c_fc.": "ffn_up.",
    "mlp.c_proj.": "ffn_down.",
}
# Gemma has norms on both sides of each part, and "post_attention_layernorm" is one of them.
_GEMMA_LIKE = _LLAMA_LIKE | {
    "post_attention_layernorm.": "post_attention_norm.",
    "pre_feedforward_layernorm.": "ffn_norm.",
    "post_feedforward_layernorm.": "post_ffw_norm.",
}
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
                 "gpt2": "gpt2", "gpt_bigcode": "starcoder", "gemma2": "gemma2", "gemma3_text": "gemma3",
                 "phi3": "phi3"}

# What the files people download hold: `q4_k` is llama.cpp's Q4_K_M on its more sensitive layers.
_Q4_K_MIX = {"attn_v": QT.Q6_K, "ffn_down": QT.Q6_K, "attn_qkv": QT.Q5_K, "output": QT.Q6_K}
# One file with every supported type.
_ALL_TYPES = {"token_embd": QT.BF16, "output": QT.F16, "attn_q": QT.Q4_0, "attn_k": QT.Q4_1,
              "attn_v": QT.Q5_0, "attn_output": QT.Q5_1, "ffn_gate": QT.Q5_K, "ffn_up": QT.Q4_K,
              "ffn_down": QT.Q6_K}


def gguf_name(model_type, name):
    """`model.layers.0.mlp.up_proj.weight` -> `blk.0.ffn_up.weight`."""
    table = (_GPT2_LIKE if model_type in ("gpt2", "gpt_bigcode")
             else _GEMMA_LIKE if model_type.startswith("gemma") else _LLAMA_LIKE)
    name = re.sub(r"^(model|transformer)\.", "", name)
    match = re.match(r"^(?:layers|h)\.(\d+)\.(.*)$", name)
    prefix, rest = (f"blk.{match.group(1)}.", match.group(2)) if match else ("", name)
    for key, value in table.items():
        if rest.startswith(key):
            return prefix + value + rest[len(key):]
    raise KeyError(name)


def tensor_type(gguf_tensor, shape, scheme):
    """The block type of one tensor: `scheme` is q8_0, q4_k or mixed."""
    part = gguf_tensor.split(".")[-2]
    if len(shape) == 1 or part == "position_embd":
        return QT.F32
    if scheme == "mixed":
        return _ALL_TYPES[part]
    if scheme == "q4_k":
        return _Q4_K_MIX.get(part, QT.Q4_K)
    return QT.Q8_0


def _interleave_rope_rows(rows, heads):
    """Rows of each head from halves (i, i + d/2) to pairs (2i, 2i + 1), as arch llama wants."""
    head_dim = rows.shape[0] // heads
    split = rows.reshape(heads, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def _deinterleave_rope_rows(rows, heads):
    """The inverse of _interleave_rope_rows."""
    head_dim = rows.shape[0] // heads
    split = rows.reshape(heads, head_dim // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def _rope_heads(config, gguf_tensor):
    """How many heads' rows of this tensor must be permuted; 0 for none."""
    part = gguf_tensor.split(".")[-2]
    if ARCHITECTURES[config["model_type"]] != "llama":
        return 0
    return {"attn_q": config["num_attention_heads"],
            "attn_k": config["num_key_value_heads"]}.get(part, 0)


def _add_metadata(writer, config):
    arch = writer.arch
    gpt2 = config["model_type"] in ("gpt2", "gpt_bigcode")
    hidden = config["n_embd" if gpt2 else "hidden_size"]
    heads = config["n_head" if gpt2 else "num_attention_heads"]
    if gpt2:
        kv_heads = 1 if config.get("multi_query") else heads
    else:
        kv_heads = config["num_key_value_heads"]
    writer.add_name(f"golden {arch}")
    writer.add_context_length(config["n_positions" if gpt2 else "max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["n_layer" if gpt2 else "num_hidden_layers"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * hidden if gpt2
                                   else config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    if gpt2:
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    head_dim = config.get("head_dim", hidden // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    if head_dim != hidden // heads:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    scalar = config.get("query_pre_attn_scalar", head_dim)
    if scalar != head_dim:  # not a key that llama.cpp reads for these; quipu does
        writer.add_attention_scale(scalar ** -0.5)
    if arch == "gemma3" and config["sliding_window_pattern"] != 6:
        writer.add_sliding_window_pattern(config["sliding_window_pattern"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if "long_factor" in scaling:
        original = config["original_max_position_embeddings"]
        stretch = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(stretch) / math.log(original)))
        writer.add_tensor("rope_factors_long.weight", np.array(scaling["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight",
                          np.array(scaling["short_factor"], np.float32))


def write_gguf(path, config, weights, scheme):
    """Writes `weights` ({reference name: f32 array, out x in}) and returns them as dequantised."""
    model_type = config["model_type"]
    writer = GGUFWriter(str(path), ARCHITECTURES[model_type])
    _add_metadata(writer, config)
    stored = {}
    for name, values in weights.items():
        target = gguf_name(model_type, name)
        heads = _rope_heads(config, target)
        rows = _interleave_rope_rows(values, heads) if heads else values
        if model_type.startswith("gemma") and target.endswith("_norm.weight"):
            rows = values + np.float32(1)  # GGUF's gain is 1 + w
        qtype = tensor_type(target, values.shape, scheme)
        if qtype == QT.F32:
            writer.add_tensor(target, np.ascontiguousarray(rows, dtype=np.float32))
            stored[name] = values
            continue
        data = block_quant.quantize(rows, qtype)
        if qtype == QT.F16:
            writer.add_tensor(target, data)
        else:
            writer.add_tensor(target, data, raw_dtype=qtype)
        back = block_quant.dequantize(data, qtype).astype(np.float32)
        stored[name] = _deinterleave_rope_rows(back, heads) if heads else back
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored
