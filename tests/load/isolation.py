#!/usr/bin/env python3
"""Whether a tenant can tell from the time to the first token what another tenant has cached.

Two tenants on one server. In each round a new prompt is drawn. By chance, the other tenant asks it first, or asks another
of the same length; then the tenant under test asks it, and the time to its first token is measured. If the tenant could see
the other's cache, the two kinds of rounds would differ. For comparison the tenant asks its own prompt again, which must be
quicker: else nothing is measured at all.

    QUIPU_PROGRAM=build/release/quipu tests/load/isolation.py [ROUNDS]

Prints medians, the area under the curve (0.5: the times tell nothing; 1: they tell everything) and the chance that a
difference as large comes about by itself (permutation test). Exit code 1 when that chance is below 0.001, or when the
comparison shows no difference. Not a part of the test suite: it measures time.
"""

import pathlib
import random
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "server"))
from quipu_server import Server  # noqa: E402

PROMPT_TOKENS = 600
PERMUTATIONS = 10_000


def first_token_ms(server, key, prompt):
    """From sending the request to the first event of its stream."""
    body = {"prompt": prompt, "max_tokens": 1, "stream": True, "seed": 1}
    begin = time.perf_counter()
    response = server.send("POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"})
    response.read(1)
    elapsed = (time.perf_counter() - begin) * 1000
    response.read()
    return elapsed


def area_under_curve(slow, quick):
    """How often a value of `slow` is above one of `quick`; ties count half."""
    above = sum((a > b) + 0.5 * (a == b) for a in slow for b in quick)
    return above / (len(slow) * len(quick))


def chance(a, b, draw):
    """Of a difference of medians at least as large, when the labels mean nothing."""
    seen = abs(statistics.median(a) - statistics.median(b))
    both, reached = [*a, *b], 0
    for _ in range(PERMUTATIONS):
        draw.shuffle(both)
        reached += abs(statistics.median(both[:len(a)]) - statistics.median(both[len(a):])) >= seen
    return (reached + 1) / (PERMUTATIONS + 1)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    draw = random.Random(20)
    server = Server("--api-key", "victim", "--api-key", "curious", "--kv-memory", "256MiB")
    vocabulary = 1000
    times = {"cached by the other": [], "cached by nobody": [], "cached by itself": []}
    try:
        for _ in range(rounds):
            prompt, other = ([draw.randrange(10, vocabulary) for _ in range(PROMPT_TOKENS)] for _ in range(2))
            is_cached = draw.random() < 0.5
            first_token_ms(server, "victim", prompt if is_cached else other)
            times["cached by the other" if is_cached else "cached by nobody"].append(first_token_ms(server, "curious", prompt))
            times["cached by itself"].append(first_token_ms(server, "curious", prompt))
    finally:
        server.stop()
    for name, values in times.items():
        print(f"{name:20} {len(values):4} rounds, median {statistics.median(values):8.2f} ms")
    others, nobody, own = (times[name] for name in ("cached by the other", "cached by nobody", "cached by itself"))
    blind, seeing = area_under_curve(nobody, others), area_under_curve(nobody, own)
    likely = chance(nobody, others, draw)
    print(f"another tenant's cache: area under the curve {blind:.3f}, chance of such a difference {likely:.3f}")
    print(f"its own cache:          area under the curve {seeing:.3f}")
    return 0 if likely >= 0.001 and seeing > 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
