"""The Llama architecture in plain PyTorch: RMSNorm, SwiGLU, rope, grouped heads,
tied embeddings, no biases. Parameter names match transformers' LlamaForCausalLM,
so that a state dict can be exported as it is.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab_size: int = 5120
    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 1
    head_dim: int = 64
    ffn: int = 768
    context: int = 2048
    rope_theta: float = 500000.0
    norm_eps: float = 1e-5

    def to_dict(self):
        return asdict(self)


# The two models that are shipped.
PRESETS = {
    "main": Config(),
    "small": Config(layers=2, ffn=512),
    "tiny": Config(dim=64, layers=1, heads=1, ffn=64),  # for a smoke test only
}


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).type_as(x)


def rope_tables(head_dim, length, theta):
    """cos and sin of shape [length, head_dim]; halves repeated, as rotate() wants."""
    freq = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), freq)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """Rope in the half-split layout of the Hugging Face Llama."""
    a, b = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-b, a], dim=-1) * sin).type_as(x)


def chunked_attention(q, k, v, size):
    """Causal attention of query heads that share one key-value head, in pieces of
    `size` queries. Compiled, its backward pass takes half the time of PyTorch's fused
    CPU kernel, and nothing above the diagonal pieces is computed."""
    n, h, t, d = q.shape
    out = []
    for i in range(0, t, size):
        rows = q[:, :, i:i + size].reshape(n, h * size, d)
        keys, values = k[:, 0, :i + size], v[:, 0, :i + size]
        s = (rows @ keys.transpose(1, 2)).view(n, h, size, i + size).float() * d ** -0.5
        seen = torch.ones(size, i + size, dtype=torch.bool, device=q.device).tril(i)
        p = s.masked_fill(~seen, float("-inf")).softmax(-1).to(q.dtype)
        out.append((p.view(n, h * size, i + size) @ values).view(n, h, size, d))
    return torch.cat(out, 2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.dim, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.dim, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.dim, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.dim, bias=False)

    def forward(self, x, cos, sin):
        c = self.c
        n, t, _ = x.shape
        q = self.q_proj(x).view(n, t, c.heads, c.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(n, t, c.kv_heads, c.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(n, t, c.kv_heads, c.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        size = 128 if t <= 512 else 256
        if self.training and c.kv_heads == 1 and t % size == 0 and q.device.type == "cpu":
            y = chunked_attention(q, k, v, size)
            return self.o_proj(y.transpose(1, 2).reshape(n, t, -1))
        group = c.heads // c.kv_heads
        k = k.repeat_interleave(group, dim=1)
        v = v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(n, t, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.dim, c.ffn, bias=False)
        self.up_proj = nn.Linear(c.dim, c.ffn, bias=False)
        self.down_proj = nn.Linear(c.ffn, c.dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c.dim, c.norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.dim, c.norm_eps)
        self.mlp = MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.dim)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.dim, c.norm_eps)


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.model = Backbone(c)
        cos, sin = rope_tables(c.head_dim, c.context, c.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # Outputs that add to the residual stream start smaller, by depth.
                scale = (2 * c.layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(p, std=0.02 * scale)

    def hidden(self, tokens):
        t = tokens.shape[1]
        cos, sin = self.cos[:t], self.sin[:t]
        x = self.model.embed_tokens(tokens)
        if torch.is_autocast_enabled("cpu"):
            x = x.bfloat16()
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def compile_parts(self):
        """Compile a layer once for all layers, and the loss: much sooner done than the whole."""
        for layer in self.model.layers:
            layer.compile(dynamic=False)
        self.loss = torch.compile(self.loss, dynamic=False)

    def loss(self, x, targets, weights):
        logits = F.linear(x, self.model.embed_tokens.weight).float().flatten(0, 1)
        each = F.cross_entropy(logits, targets.flatten(), reduction="none")
        return (each * weights.flatten()).sum() / weights.sum()

    def forward(self, tokens, targets=None, weights=None):
        """Logits, or with targets the mean loss, weighted by token if weights are given."""
        x = self.hidden(tokens)
        if targets is None:
            return F.linear(x, self.model.embed_tokens.weight)
        return self.loss(x, targets, torch.ones_like(targets, dtype=torch.float) if weights is None else weights)

    def parameter_count(self):
        return sum(p.numel() for p in self.parameters())
