#!/usr/bin/env python3
"""Many users at once: open streams by the hundred, some that leave, and what the server makes of it.

    tests/load/load.py [--seconds 120] [--streams 1000] [--active 64] [--leave 5] [--idle 5000]

Starts `quipu serve` with the built-in model, keeps that many streams open (so many of them computed at once, the
others waiting), lets some percent of the clients leave in the middle, asks /health twenty times a second, and watches
the server's memory and open files. At the end it opens idle connections as well. It prints what it measured and
exits with 1 if a promise was broken:

  - every stream that stayed got its text and exactly one end; nothing but 200 was answered;
  - the server counts exactly as many ends as requests, and holds no block, place or file more than before;
  - memory after the warm-up stays within five percent;
  - /health answers in 50 ms.

Python's standard library only. Client and server share the machine; a busy one makes the figures worse.
"""

import argparse
import asyncio
import concurrent.futures
import json
import multiprocessing
import pathlib
import random
import resource
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "server"))
from quipu_server import Server  # noqa: E402

PATH = "/v1/chat/completions"
TOPICS = ["the goat", "the lion", "a drum", "the river", "a hen", "the hyena", "an old woman", "the hare"]
MEMORY_GROWTH_MAX = 1.05
HEALTH_MS_MAX = 50
IDLE_BYTES_MAX = 200 << 20


class Ends:
    """What became of the streams."""

    def __init__(self):
        self.finished, self.left, self.tokens, self.problems = 0, 0, 0, []


def request(draw):
    body = json.dumps({"messages": [{"role": "user", "content": f"Tell me about {draw.choice(TOPICS)}."}],
                       "seed": draw.randrange(1000), "max_tokens": draw.randrange(8, 96), "stream": True}).encode()
    return (f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode() + body


async def one_stream(address, draw, leave_percent, ends):
    """One request from its connection to its end; the client may leave after a random number of bytes."""
    patience = draw.randrange(4000) if draw.random() * 100 < leave_percent else None
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request(draw))
        answer = b""
        while piece := await reader.read(65536):
            answer += piece
            if patience is not None and len(answer) > patience:
                ends.left += 1
                return
    finally:
        writer.close()
    finishes = answer.count(b'"finish_reason":"')
    if not answer.startswith(b"HTTP/1.1 200 ") or finishes != 1 or answer.count(b"data: [DONE]") != 1:
        ends.problems.append(answer[:300] + b" ... " + answer[-200:])
    ends.finished += 1
    ends.tokens += answer.count(b'"content":') - 1


async def user(address, seed, leave_percent, ends, end_time):
    draw = random.Random(seed)
    while time.monotonic() < end_time:
        try:
            await one_stream(address, draw, leave_percent, ends)
        except OSError as error:
            ends.problems.append(repr(error).encode())


def run_users(address, options, seconds):
    """In a process of its own, so that it does not hold up the questions to /health."""
    ends, end_time = Ends(), time.monotonic() + seconds

    async def all_users():
        users = (user(address, seed, options.leave, ends, end_time) for seed in range(options.streams))
        await asyncio.gather(*users)

    allow_many_files()
    asyncio.run(all_users())
    return ends


def allow_many_files():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def resident_bytes(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def open_files(server):
    return sum(1 for _ in pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir())


class Watch(threading.Thread):
    """Asks /health and looks at the memory, until told to stop."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.health_ms, self.memory, self.stopping = server, [], [], False

    def run(self):
        while not self.stopping:
            begin = time.monotonic()
            self.server.get("/health")
            self.health_ms.append((time.monotonic() - begin) * 1000)
            self.memory.append((begin, resident_bytes(self.server)))
            time.sleep(0.05)


def open_idle(server, count):
    """Bytes that so many connections cost which sent half a header."""
    before = resident_bytes(server)
    held = []
    for _ in range(count):
        connection = server.connect()
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        held.append(connection)
    server.wait_until(lambda: open_files(server) >= count, "all connections are taken")
    cost = resident_bytes(server) - before
    for connection in held:
        connection.close()
    return cost


def counted_ends(server):
    text = server.send("GET", "/metrics").read().decode()
    lines = [line for line in text.splitlines() if line.startswith("quipu_request_success_total{")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def main():
    parser = argparse.ArgumentParser(description="Load test of quipu serve.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--warm-up", type=float, default=15, help="seconds before memory is compared")
    parser.add_argument("--streams", type=int, default=1000, help="open at the same time")
    parser.add_argument("--active", type=int, default=64, help="computed at the same time")
    parser.add_argument("--leave", type=float, default=5, help="percent of the clients that leave in the middle")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections opened at the end")
    options = parser.parse_args()

    allow_many_files()
    # A pool that is full and evicts before the warm-up is over: its memory is touched on first use.
    server = Server("--parallel", options.active, "--queue", options.streams, "--max-connections", 10_000,
                    "--read-timeout", 120, "--kv-memory", "24MiB")
    server.get("/health")
    files_before = open_files(server)
    watch = Watch(server)
    watch.start()
    begin = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        ends = process.submit(run_users, (server.host, server.port), options, options.seconds).result()
    seconds = time.monotonic() - begin
    watch.stopping = True
    watch.join()
    server.wait_until(server.is_idle, "every place is free")
    kv = server.get("/v1/kv")

    warm = [size for at, size in watch.memory if at - begin <= options.warm_up]
    after = [size for at, size in watch.memory if at - begin > options.warm_up] or warm
    health = sorted(watch.health_ms)
    blocks = [group["blocks"] for group in kv["groups"]]
    promises = {
        "every stream has exactly one end": not ends.problems,
        "the server counts the same ends": counted_ends(server) == ends.finished + ends.left,
        "no block is held": all(block["open"] == block["closed"] == block["in_flight"] == 0 for block in blocks),
        "memory is flat": max(after) <= MEMORY_GROWTH_MAX * max(warm),
        f"/health within {HEALTH_MS_MAX} ms": health[-1] <= HEALTH_MS_MAX,
    }
    server.wait_until(lambda: open_files(server) <= files_before + 2, "every connection is closed")
    idle_bytes = open_idle(server, options.idle)
    promises[f"{options.idle} idle connections below 200 MiB"] = idle_bytes < IDLE_BYTES_MAX
    server.stop()

    print(f"{options.streams} streams open, {options.active} computed at once, {seconds:.0f} s")
    print(f"finished {ends.finished}, left in the middle {ends.left}, problems {len(ends.problems)}; "
          f"{ends.finished / seconds:.1f} requests/s, about {ends.tokens / seconds:.0f} tokens/s")
    print(f"memory {max(warm) / 2**20:.1f} MiB after {options.warm_up:.0f} s, at most {max(after) / 2**20:.1f} MiB later")
    print(f"/health {statistics.median(health):.1f} ms median, {health[int(len(health) * 0.99)]:.1f} ms for 99 %, "
          f"{health[-1]:.1f} ms at most, of {len(health)}")
    print(f"{options.idle} idle connections: {idle_bytes / 2**20:.1f} MiB")
    for problem in ends.problems[:3]:
        print("problem:", problem)
    for promise, kept in promises.items():
        print("kept  " if kept else "BROKEN", promise)
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
