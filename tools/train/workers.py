"""Data-parallel training on a CPU: a few single-threaded processes take the rows of
a step one by one and add up their gradients. Weights and gradients lie in shared
memory. A process that the scheduler holds up simply takes fewer rows.
"""

import os
import signal

import torch
import torch.multiprocessing as mp


def work(index, model, gradient, loader, task, start, done, losses, compiled):
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, signal.SIG_IGN)  # the parent ends this process
    torch.set_num_threads(1)
    offset = 0
    for p in model.parameters():
        p.grad = gradient[offset:offset + p.numel()].view_as(p)
        offset += p.numel()
    if compiled:
        model.compile_parts()
    while True:
        start.acquire()
        if task["step"].value < 0:
            return
        gradient.zero_()
        while True:
            with task["next"].get_lock():
                i = task["next"].value
                task["next"].value += 1
            if i >= loader.rows:
                break
            row, weight = (torch.from_numpy(a) for a in loader.row(task["step"].value, i))
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(row[None, :-1], row[None, 1:], weight[None])
            loss.backward()
            losses[i] = loss.item()
        done.release()


class Pool:
    def __init__(self, model, loader, count, compiled):
        context = mp.get_context("spawn")
        model.share_memory()
        size = sum(p.numel() for p in model.parameters())
        self.model, self.rows, self.count = model, loader.rows, count
        self.gradients = [torch.zeros(size).share_memory_() for _ in range(count)]
        self.losses = torch.zeros(loader.rows).share_memory_()
        self.task = {"step": context.Value("q", 0), "next": context.Value("i", 0)}
        self.starts = [context.Semaphore(0) for _ in range(count)]
        self.done = context.Semaphore(0)
        self.processes = [context.Process(target=work, daemon=True, args=(
            i, model, self.gradients[i], loader, self.task, self.starts[i], self.done, self.losses, compiled))
            for i in range(count)]
        for p in self.processes:
            p.start()

    def step(self, step):
        """Gradients of a step into the parameters' .grad; the mean loss of its rows."""
        self.task["step"].value, self.task["next"].value = step, 0
        for s in self.starts:
            s.release()
        for _ in range(self.count):
            while not self.done.acquire(timeout=30):
                if not all(p.is_alive() for p in self.processes):
                    os._exit(1)
        total = self.gradients[0]
        for g in self.gradients[1:]:
            total += g
        total /= self.rows
        offset = 0
        for p in self.model.parameters():
            p.grad = total[offset:offset + p.numel()].view_as(p)
            offset += p.numel()
        return self.losses.mean().item()

    def close(self):
        self.task["step"].value = -1
        for s in self.starts:
            s.release()
        for p in self.processes:
            p.join(timeout=20)
