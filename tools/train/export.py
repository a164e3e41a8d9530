"""Write a checkpoint as a Hugging Face directory: safetensors, configuration,
tokenizer, generation configuration. `quipu quantize` reads it.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", help="checkpoint.pt of train.py")
    p.add_argument("out", help="folder to write")
    p.add_argument("--tokenizer", default="models/tokenizer", help="folder of tokenizer.json")
    p.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    args = p.parse_args()

    state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    c = state["config"]
    dtype = getattr(torch, args.dtype)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    weights = {n: w.to(dtype).contiguous() for n, w in state["model"].items()}
    save_file(weights, str(out / "model.safetensors"), metadata={"format": "pt"})
    vocab = json.loads((Path(args.tokenizer) / "tokenizer.json").read_text(encoding="utf-8"))
    special = {t["content"]: t["id"] for t in vocab["added_tokens"]}
    end, chat_end = special["<|endoftext|>"], special["<|im_end|>"]
    (out / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c["vocab_size"],
        "hidden_size": c["dim"],
        "intermediate_size": c["ffn"],
        "num_hidden_layers": c["layers"],
        "num_attention_heads": c["heads"],
        "num_key_value_heads": c["kv_heads"],
        "head_dim": c["head_dim"],
        "max_position_embeddings": c["context"],
        "rope_theta": c["rope_theta"],
        "rope_scaling": None,
        "rms_norm_eps": c["norm_eps"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": args.dtype,
    }, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps({
        "bos_token_id": None, "eos_token_id": [end, chat_end], "pad_token_id": end,
        "do_sample": True, "temperature": 0.8, "top_p": 0.95,
    }, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(Path(args.tokenizer) / name, out / name)
    size = sum(w.numel() for w in weights.values())
    print(f"{out}: {size:,} parameters, step {state['step']}, {args.dtype}")


if __name__ == "__main__":
    main()
