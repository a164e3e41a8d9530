"""The golden cases: small shapes that between them touch what real models vary.

Configurations are written by hand, in the form in which published models carry them (rope_theta and
rope_scaling at the top level), except where a case says that it has the newer form.
"""


def _llama(**changes):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "vocab_size": 131,
        "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    }
    config.update(changes)
    return config


def _qwen2(**changes):
    config = _llama(architectures=["Qwen2ForCausalLM"], model_type="qwen2", rms_norm_eps=1e-6,
                    rope_theta=1000000.0, vocab_size=151, tie_word_embeddings=True,
                    sliding_window=128, use_sliding_window=False, max_window_layers=2)
    del config["attention_bias"], config["mlp_bias"]
    config.update(changes)
    return config


def _qwen3(**changes):
    config = _llama(architectures=["Qwen3ForCausalLM"], model_type="qwen3", rms_norm_eps=1e-6,
                    rope_theta=1000000.0, hidden_size=32, intermediate_size=64, head_dim=128,
                    num_attention_heads=2, num_key_value_heads=1, vocab_size=203,
                    tie_word_embeddings=True, sliding_window=None, use_sliding_window=False,
                    max_window_layers=2)
    del config["mlp_bias"]
    config.update(changes)
    return config


def _gpt2(**changes):
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
        "activation_function": "gelu_new", "n_embd": 48, "n_head": 4, "n_layer": 2,
        "n_positions": 128, "n_ctx": 128, "layer_norm_epsilon": 1e-5, "vocab_size": 211,
        "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16",
    }
    config.update(changes)
    return config


def _bigcode(**changes):
    config = _gpt2(architectures=["GPTBigCodeForCausalLM"], model_type="gpt_bigcode",
                   activation_function="gelu_pytorch_tanh", multi_query=True, n_inner=160)
    del config["n_ctx"]
    config.update(changes)
    return config


def _gemma2(**changes):
    config = {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 8.0, "sliding_window": 16, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "vocab_size": 149, "bos_token_id": 2,
        "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16",
    }
    config.update(changes)
    return config


def _gemma3(**changes):
    config = _gemma2(architectures=["Gemma3ForCausalLM"], model_type="gemma3_text",
                     num_hidden_layers=3, sliding_window_pattern=3, query_pre_attn_scalar=32,
                     rope_theta=1000000.0, rope_local_base_freq=10000.0,
                     attn_logit_softcapping=None, final_logit_softcapping=None)
    del config["hidden_act"]
    config.update(changes)
    return config


def _phi3(**changes):
    config = _llama(architectures=["Phi3ForCausalLM"], model_type="phi3", vocab_size=157,
                    original_max_position_embeddings=256, sliding_window=None, pad_token_id=0)
    del config["attention_bias"], config["mlp_bias"]
    config.update(changes)
    return config


def _long_factors(pairs):
    """Two sets that differ, of a kind that published files hold: near 1, and rising."""
    short = [round(1.0 + 0.05 * i / pairs, 4) for i in range(pairs)]
    long = [round(1.1 + 6.0 * (i / pairs) ** 2, 4) for i in range(pairs)]
    return {"short_factor": short, "long_factor": long}


# Hugging Face directories. `tokens`: how many are fed; `at`: positions whose logits are kept;
# `dtype`: how the weights are stored; `shards`: files they are split into.
# `published_names`: the way gpt2's own files name tensors, without "transformer." and with the
# causal masks among the weights.
# `context`: what the model is loaded for, where that is less than the configuration's; LongRoPE's
# factors depend on it. `language_model`: names as in files with images, beside a part of those.
HF_CASES = {
    "llama-gqa3-d64": dict(config=_llama(
        hidden_size=96, intermediate_size=64, num_hidden_layers=1, num_attention_heads=3,
        num_key_value_heads=1, head_dim=64)),
    "llama-gqa8-d128-tied": dict(config=_llama(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=8,
        num_key_value_heads=1, head_dim=128, vocab_size=499, tie_word_embeddings=True)),
    "llama-mha-d80": dict(config=_llama(num_hidden_layers=1, num_attention_heads=2,
                                        num_key_value_heads=2, head_dim=80, vocab_size=67)),
    "llama-bias": dict(config=_llama(hidden_size=48, intermediate_size=80, attention_bias=True,
                                     mlp_bias=True, vocab_size=101)),
    # 700 tokens, so that two attention chunks of 512 are merged; well beyond the 256 positions
    # of the original context.
    "llama-rope-llama3": dict(
        config=_llama(hidden_size=64, num_attention_heads=2, num_key_value_heads=1,
                      max_position_embeddings=2048, rope_theta=500000.0, vocab_size=101,
                      tie_word_embeddings=True,
                      rope_scaling={"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 256,
                                    "rope_type": "llama3"}),
        tokens=700, at=[0, 31, 255, 300, 510, 511, 512, 513, 640, 699]),
    "llama-rope-linear": dict(config=_llama(
        hidden_size=32, intermediate_size=48, vocab_size=101,
        rope_scaling={"type": "linear", "factor": 4.0})),
    "llama-rope-yarn": dict(
        config=_llama(hidden_size=32, intermediate_size=48, head_dim=32, num_attention_heads=2,
                      num_key_value_heads=1, vocab_size=101,
                      rope_scaling={"rope_type": "yarn", "factor": 4.0,
                                    "original_max_position_embeddings": 64}),
        tokens=200, at=[0, 1, 40, 63, 64, 100, 150, 199]),
    "mistral-f16-sharded": dict(
        config=_llama(architectures=["MistralForCausalLM"], model_type="mistral", hidden_size=32,
                      intermediate_size=64, num_attention_heads=4, num_key_value_heads=1,
                      rope_theta=1000000.0, sliding_window=None, vocab_size=101,
                      torch_dtype="float16"),
        dtype="float16", shards=2),
    # Windows of 16 positions: in every layer, and in the second of two.
    "mistral-window": dict(
        config=_llama(architectures=["MistralForCausalLM"], model_type="mistral", hidden_size=32,
                      intermediate_size=64, sliding_window=16, vocab_size=101),
        tokens=100, at=[0, 14, 15, 16, 17, 40, 63, 64, 99]),
    "qwen2-window-upper-layer": dict(
        config=_qwen2(hidden_size=32, intermediate_size=48, num_attention_heads=2,
                      num_key_value_heads=1, sliding_window=16, use_sliding_window=True,
                      max_window_layers=1, vocab_size=101),
        tokens=100, at=[0, 14, 15, 16, 17, 40, 63, 64, 99]),
    "qwen2-tied": dict(config=_qwen2(hidden_size=96, num_attention_heads=6, num_key_value_heads=2,
                                     num_hidden_layers=1, intermediate_size=128)),
    # As Qwen2.5's documentation spells it: "type", not "rope_type".
    "qwen2-rope-yarn": dict(
        config=_qwen2(hidden_size=32, intermediate_size=48, num_attention_heads=2,
                      num_key_value_heads=1, tie_word_embeddings=False, vocab_size=101,
                      rope_theta=10000.0,
                      rope_scaling={"factor": 4.0, "original_max_position_embeddings": 64,
                                    "type": "yarn"}),
        tokens=150, at=[0, 1, 40, 63, 64, 100, 149]),
    "qwen3-d128-tied": dict(config=_qwen3()),
    # The form that transformers 5 writes: rope_parameters, dtype.
    "qwen3-f32-rope-parameters": dict(
        config={key: value for key, value in _qwen3(
            head_dim=16, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
            num_hidden_layers=1, vocab_size=101, dtype="float32",
            rope_parameters={"rope_theta": 5000.0, "rope_type": "default"}).items()
            if key not in ("rope_theta", "rope_scaling", "torch_dtype")},
        dtype="float32"),
    "gpt2": dict(config=_gpt2(), published_names=True),
    "starcoder": dict(config=_bigcode()),
    # Windows of 16 in the first of two layers; both soft caps low enough to bend every score.
    "gemma2": dict(config=_gemma2(), tokens=60, at=[0, 14, 15, 16, 17, 31, 32, 59]),
    "gemma2-mha-d80-layer-types": dict(
        config=_gemma2(num_attention_heads=2, num_key_value_heads=2, head_dim=80,
                       query_pre_attn_scalar=80, vocab_size=67, num_hidden_layers=3,
                       hidden_size=32, intermediate_size=48,
                       layer_types=["full_attention", "sliding_attention", "full_attention"]),
        tokens=60, at=[0, 14, 15, 16, 17, 31, 32, 59]),
    # 530 tokens, so that two attention chunks of 512 are merged; the rope of the third layer is
    # stretched, that of the two windowed ones is not.
    "gemma3-rope-linear": dict(
        config=_gemma3(hidden_size=32, intermediate_size=48, num_attention_heads=2,
                       num_key_value_heads=1, vocab_size=101, max_position_embeddings=1024,
                       rope_scaling={"rope_type": "linear", "factor": 8.0}),
        tokens=530, at=[0, 15, 16, 17, 100, 510, 511, 512, 513, 529]),
    # As transformers 5 writes it, with images: the text's configuration is an object, both ropes are
    # parts of rope_parameters.
    "gemma3-language-model": dict(
        config={key: value for key, value in _gemma3(
            dtype="bfloat16", num_hidden_layers=2,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
                             "full_attention": {"rope_type": "default", "rope_theta": 1e5}}).items()
            if key not in ("rope_theta", "rope_local_base_freq", "torch_dtype",
                           "sliding_window_pattern")},
        tokens=60, at=[0, 14, 15, 16, 17, 31, 32, 59], language_model=True),
    # Long factors beyond the original 64 positions; short ones where the model is loaded for those.
    "phi3-long-factors": dict(
        config=_phi3(original_max_position_embeddings=64, max_position_embeddings=256,
                     num_attention_heads=2, num_key_value_heads=1,
                     rope_scaling={"type": "longrope", **_long_factors(16)}),
        tokens=100, at=[0, 1, 40, 63, 64, 65, 99]),
    "phi3-short-factors": dict(
        config=_phi3(original_max_position_embeddings=64, max_position_embeddings=256,
                     num_attention_heads=2, num_key_value_heads=1, sliding_window=20,
                     rope_scaling={"rope_type": "longrope", **_long_factors(16)}),
        tokens=40, context=64),
    # Phi-4-mini: three quarters of each head rotate, one matrix for embedding and head.
    "phi3-partial-rotary-tied": dict(
        config=_phi3(partial_rotary_factor=0.75, tie_word_embeddings=True, head_dim=16,
                     original_max_position_embeddings=16,
                     rope_scaling={"type": "longrope", **_long_factors(6)})),
}

# GGUF files. `scheme`: which block types (gguf_export.tensor_type).
_WIDE = dict(hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=1, vocab_size=67)
GGUF_CASES = {
    "llama-q8_0": dict(config=_llama(), scheme="q8_0"),
    "qwen2-q8_0": dict(config=_qwen2(), scheme="q8_0"),
    "qwen3-q8_0": dict(config=_qwen3(head_dim=64), scheme="q8_0"),
    "gpt2-q8_0": dict(config=_gpt2(n_embd=64, n_positions=64), scheme="q8_0"),
    "starcoder-q8_0": dict(config=_bigcode(n_embd=64, n_positions=64), scheme="q8_0"),
    "llama-q4_k": dict(config=_llama(**_WIDE), scheme="q4_k"),
    "qwen2-q4_k": dict(config=_qwen2(**_WIDE), scheme="q4_k"),
    "qwen3-q4_k": dict(config=_qwen3(**(_WIDE | dict(head_dim=128, num_attention_heads=2))),
                       scheme="q4_k"),
    "gpt2-q4_k": dict(config=_gpt2(n_embd=256, n_inner=256, n_layer=1, vocab_size=67,
                                   n_positions=64), scheme="q4_k"),
    "starcoder-q4_k": dict(config=_bigcode(n_embd=256, n_inner=256, n_layer=1, vocab_size=67,
                                           n_positions=64), scheme="q4_k"),
    "gemma2-q8_0": dict(config=_gemma2(query_pre_attn_scalar=32, num_hidden_layers=3), scheme="q8_0"),
    "gemma3-q8_0": dict(config=_gemma3(num_hidden_layers=6, sliding_window_pattern=6,
                                       intermediate_size=64,
                                       rope_scaling={"rope_type": "linear", "factor": 8.0}),
                        scheme="q8_0"),
    "phi3-q8_0": dict(config=_phi3(original_max_position_embeddings=32,
                                   rope_scaling={"type": "longrope", **_long_factors(8)}),
                      scheme="q8_0"),
    "gemma2-q4_k": dict(config=_gemma2(**(_WIDE | dict(head_dim=64, query_pre_attn_scalar=64))),
                        scheme="q4_k"),
    "gemma3-q4_k": dict(config=_gemma3(**(_WIDE | dict(head_dim=64, query_pre_attn_scalar=64,
                                                       sliding_window_pattern=2))),
                        scheme="q4_k"),
    "phi3-q4_k": dict(config=_phi3(**_WIDE), scheme="q4_k"),
    "llama-every-type": dict(config=_llama(**_WIDE), scheme="mixed"),
}
