"""Batches: rows of a fixed length, each either whole documents of one mixture or
a recall row (facts, other text, questions at all distances).

Row i of step s depends on (seed, s, i) alone, so a resumed run sees what an
uninterrupted one would have seen.
"""

import random
from pathlib import Path

import numpy as np

import recall


class Documents:
    def __init__(self, path):
        data = np.load(path)
        self.tokens, self.starts = data["tokens"], data["starts"]

    def __len__(self):
        return len(self.starts) - 1

    def get(self, i):
        return self.tokens[self.starts[i]:self.starts[i + 1]]


class Loader:
    def __init__(self, folder, tokenizer, mix, length, rows, seed=0, split="train", dense=0.0, answer_weight=1.0):
        self.length, self.rows, self.seed = length, rows, seed
        self.tok = tokenizer
        self.end = tokenizer.token_to_id("<|endoftext|>")
        self.gap = tokenizer.encode("\n\n").ids
        self.line_break = np.array(["\n" in tokenizer.decode([i], skip_special_tokens=False)
                                    for i in range(tokenizer.get_vocab_size())])
        self.dense_share = dense
        self.recall_share = mix.get("recall", 0.0)
        self.kinds = [k for k in mix if k != "recall"]
        self.weights = [mix[k] for k in self.kinds]
        self.docs = {k: Documents(Path(folder) / f"{k}.{split}.npz") for k in self.kinds}
        # Other text between facts and questions: simple stories mostly.
        self.filler_kinds = [k for k in self.kinds if k in ("tiny", "gen", "storybook", "fairy")]
        self.filler_weights = [mix[k] for k in self.filler_kinds]
        self.cache = {}
        self.answer_weight = answer_weight
        # Values of the facts in training: any word that is one token, and the test's own.
        self.words = recall.WORDS + [w[1:] for w in (tokenizer.decode([i]) for i in range(tokenizer.get_vocab_size()))
                                     if len(w) > 3 and w[0] == " " and w[1:].isalpha() and w[1:].isascii() and w[1:].islower()]

    def encode(self, text):
        ids = self.cache.get(text)
        if ids is None:
            ids = self.tok.encode(text, add_special_tokens=False).ids
            if len(self.cache) < 200_000:
                self.cache[text] = ids
        return ids

    def document(self, rng, kinds, weights):
        kind = rng.choices(kinds, weights)[0]
        docs = self.docs[kind]
        doc = docs.get(rng.randrange(len(docs)))
        if len(doc) > 1200:  # a chapter: a window of it, from a line start where there is one
            start = rng.randrange(len(doc) - 400)
            breaks = np.flatnonzero(self.line_break[doc[start:start + 300]])
            start = start + int(breaks[0]) + 1 if len(breaks) and rng.random() < 0.8 else 0
            doc = doc[start:start + 1200]
        return doc

    def plain_row(self, rng):
        out, size = [], 0
        need = self.length + 1
        # One row in three begins inside a document, the others at a start; short rows
        # begin anywhere, or no story's end would ever be seen.
        first, inside = True, 0.33 if need > 400 else 0.6
        while size < need:
            doc = self.document(rng, self.kinds, self.weights)
            if first and rng.random() < inside and len(doc) > 40:
                doc = doc[rng.randrange(len(doc) - 20):]
            first = False
            out.append(doc)
            size += len(doc)
        return np.concatenate(out)[:need].astype(np.int64), np.ones(self.length, np.float32)

    def filler(self, rng, count):
        """About count tokens of other text that end with a line break."""
        out = []
        while len(out) < count:
            doc = self.document(rng, self.filler_kinds, self.filler_weights)
            doc = doc[doc != self.end][:count - len(out)]
            out.extend(doc.tolist())
            if len(out) < count:
                out.extend(self.gap)
        breaks = np.flatnonzero(self.line_break[np.array(out, dtype=np.int64)]) if out else []
        if len(breaks) and breaks[-1] > 0.6 * len(out):
            out = out[:int(breaks[-1]) + 1]
        else:
            out.extend(self.gap)
        return out

    def copy_task(self, rng):
        """A passage of a story that comes back later and is continued."""
        passage = self.filler(rng, rng.randint(20, min(120, self.length // 4)))
        again = []
        for _ in range(3):
            start = rng.choice((0, rng.randrange(max(1, len(passage) // 2))))
            again.append((self.encode("Copy: ") + passage[start:start + 5], passage[start + 5:]))
        return self.encode("Text:\n") + passage, again

    def random_task(self, rng):
        """Random tokens that come back: nothing but looking back can predict them."""
        some = [rng.randrange(300, len(self.line_break)) for _ in range(rng.randint(8, min(60, self.length // 4)))]
        again = []
        for _ in range(2):
            start = rng.choice((0, rng.randrange(len(some) - 4)))
            again.append((self.encode("Copy: ") + some[start:start + 2], some[start + 2:] + self.gap))
        return self.encode("Text:\n") + some + self.gap, again

    def recall_task(self, rng, lists=0.25):
        kind = rng.random()
        if kind < 0.12:
            return self.copy_task(rng)
        if kind < 0.12 + 0.4 * lists:
            return self.random_task(rng)
        task = recall.task(rng, lists, self.words if rng.random() < 0.6 else recall.WORDS)
        return self.encode(task["facts"]), [(self.encode(p), self.encode(a)) for p, a in task["questions"]]

    def recall_row(self, rng):
        """Facts and questions with other text in between. Dense rows: one task after
        another with little other text, where recall is learnt first."""
        dense = rng.random() < self.dense_share
        need = self.length + 1
        out, weight = [], []

        def add(tokens, w):
            out.extend(tokens)
            weight.extend([w] * len(tokens))

        if dense:
            while len(out) < need:
                facts, questions = self.recall_task(rng, lists=0.5)
                add(facts, 0.3)
                for prompt, answer in questions[:rng.randint(1, len(questions))]:
                    if rng.random() < 0.3:
                        add(self.filler(rng, rng.randint(10, 60)), 1.0)
                    add(prompt, 0.3)
                    add(answer, self.answer_weight)
        else:
            facts, questions = self.recall_task(rng)
            if rng.random() < 0.4:
                add(self.filler(rng, rng.randint(16, max(17, need // 4))), 1.0)
            add(facts, 0.3)
            turn = 0
            # Gaps of very different lengths, so that every distance occurs; often one
            # gap up to near the end of the row.
            far = rng.random() < 0.4
            while len(out) < need:
                room = need - len(out)
                gap = int(room * rng.random() ** 2) if rng.random() < 0.8 else 0
                if far:
                    gap, far = max(0, room - rng.randint(30, 160)), False
                if gap > 10:
                    add(self.filler(rng, gap), 1.0)
                for _ in range(rng.choice((1, 2, 3, 4))):
                    prompt, answer = questions[turn % len(questions)]
                    add(prompt, 0.3)
                    add(answer, self.answer_weight)
                    turn += 1
        return np.array(out[:need], dtype=np.int64), np.array(weight[1:need], dtype=np.float32)

    def row(self, step, i):
        """Tokens of a row (one more than its length), weights of the losses."""
        rng = random.Random(f"{self.seed}/{step}/{i}")
        return self.recall_row(rng) if rng.random() < self.recall_share else self.plain_row(rng)

    def batch(self, step, rows=None):
        block = [self.row(step, int(i)) for i in (range(self.rows) if rows is None else rows)]
        tokens, weights = np.stack([t for t, _ in block]), np.stack([w for _, w in block])
        return tokens[:, :-1], tokens[:, 1:], weights


def validation_rows(path, length, most):
    """Non-overlapping windows of the validation documents of one kind."""
    docs = Documents(path)
    flat = docs.tokens.astype(np.int64)
    count = min(most, (len(flat) - 1) // length)
    if count == 0:
        return None
    return (np.stack([flat[i * length:(i + 1) * length] for i in range(count)]),
            np.stack([flat[i * length + 1:(i + 1) * length + 1] for i in range(count)]))
