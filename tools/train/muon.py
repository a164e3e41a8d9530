"""Muon: momentum whose update is made nearly orthogonal by a Newton-Schulz
iteration (K. Jordan and others, 2024). For the matrices inside the layers.
"""

from concurrent.futures import ThreadPoolExecutor

import torch


def orthogonal(g, rounds=5):
    """Replace the singular values of each matrix of a stack by values near one."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        a = x @ x.transpose(-2, -1)
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return x.transpose(-2, -1) if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.01, threads=1):
        # threads: stacks of matrices are shared out to so many Python threads. On a
        # busy CPU that beats many threads inside each small matrix product.
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            stacks = [(params[i:i + 3], group) for params in shapes.values() for i in range(0, len(params), 3)]
            if self.pool:
                list(self.pool.map(self.update, stacks))
            else:
                for s in stacks:
                    self.update(s)

    @torch.no_grad()
    def update(self, stack):
        params, group = stack
        updates = []
        for p in params:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            m = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            updates.append(p.grad.lerp(m, group["momentum"]))
        rows, columns = params[0].shape
        scale = group["lr"] * max(1.0, rows / columns) ** 0.5
        for p, u in zip(params, orthogonal(torch.stack(updates)).float()):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(u, alpha=-scale * getattr(p, "rate", 1.0))
