"""Recall tasks as text: facts, much other text, then questions about the facts;
and passages that come back later and must be continued.

A task is a dictionary:
  facts      text that stands early (ends with a line break)
  questions  list of (prompt, answer): the prompt ends right before the answer,
             the answer is what must be recalled
Every piece ends with a line break, so pieces can be tokenised one by one and
joined with other text in between.
"""

import random
import zlib

NAMES = """Lily Tom Ben Mia Max Sara Tim Anna Sam Lucy Jack Emma Leo Rosie Bob Amy Joe Molly Dan Ella
Fred Grace Peter Nora Oscar Zoe Billy Kate Henry Ivy Jim Ruby Mark Daisy Nick Jane Paul Alice Roy Clara
Luke Betty Toby Hana Omar Maya Hugo Lena Felix Pia Finn Tara Gus Vera Ned Olga Ravi Suki Kofi Amina""".split()

WORDS = """apple river lamp garden window button candle bridge pepper rocket basket feather mirror pocket
ladder blanket bottle castle cherry circle cloud cookie corner cotton crayon dragon drum engine
farmer finger flower forest fountain giant ginger hammer honey island jacket jelly kettle kitten lemon
lion market meadow melon mitten monkey mountain needle ocean onion orange owl paper parrot pencil
penny piano pillow pirate planet potato puddle pumpkin puppet rabbit ribbon ring robin robot sailor
sandwich scarf seed shadow shell silver singer snow soldier spider spoon spring squirrel stone story
sugar summer table teacher tiger tower train treasure trumpet tunnel turtle umbrella valley village
violin wagon wall water whale wheel whistle winter wizard wolf yellow zebra bread grass horse light
moon nest party queen school sheep star street thunder torch""".split()

OBJECTS = """ball book hat kite doll bell cup boat key flute coin
puzzle teddy map clock rope crown bag""".split()

# Each style: what the keys are, the line of a fact, the question, the answer up to the
# value. {k} is the key, {v} the value. Key and value stand close together, with one word
# between them, and the answer repeats the fact: this is a test of finding a line of the
# context again, not of understanding it. The first style is the main one.
STYLES = [
    ("name", "The secret word of {k} is {v}.", "What is the secret word of {k}?", "The secret word of {k} is"),
    ("name", "The favourite thing of {k} is {v}.", "What is the favourite thing of {k}?", "The favourite thing of {k} is"),
    ("name", "- {k} likes {v}.", "What does {k} like?", "{k} likes"),
    ("name", "- {k} wants {v}.", "What does {k} want?", "{k} wants"),
    ("thing", "The word on the {k} is {v}.", "What is the word on the {k}?", "The word on the {k} is"),
    ("thing", "Behind the {k}: {v}.", "What is behind the {k}?", "Behind the {k}:"),
]

INTROS = ["Remember these facts.", "Facts:", "Here are some facts to remember.", "Read this carefully.", "Notes:"]


def held_out(key, value):
    """Pairs that only the test uses: one in eight."""
    return zlib.crc32(f"{key}/{value}".encode()) % 8 == 0


def keys_and_values(kind, count, rng, test, values):
    """Distinct keys and distinct values; pairs of the test never occur in training."""
    keys = rng.sample(NAMES if kind == "name" else WORDS + OBJECTS, count)
    picked = []
    for k in keys:
        while True:
            v = rng.choice(values)
            if v not in picked and v not in keys and held_out(k, v) == test:
                picked.append(v)
                break
    return keys, picked


def facts_task(rng, style=None, test=False, values=WORDS, count=None):
    if style is None:
        style = 0 if rng.random() < 0.4 else rng.randrange(len(STYLES))
    kind, fact, question, answer = STYLES[style]
    count = count or rng.randint(2, 8)
    keys, values = keys_and_values(kind, count, rng, test, values)
    lines = [fact.format(k=k, v=v) for k, v in zip(keys, values)]
    order = list(range(count))
    rng.shuffle(order)
    return {"facts": rng.choice(INTROS) + "\n" + "\n".join(lines) + "\n\n",
            "questions": [(f"Question: {question.format(k=keys[i])}\nAnswer: {answer.format(k=keys[i])}",
                           f" {values[i]}.\n\n") for i in order]}


def words_task(rng, values=WORDS):
    """A list of random words that comes back later, whole or from the middle."""
    words = [rng.choice(values) for _ in range(rng.randint(6, 24))]
    questions = []
    for _ in range(4):
        start = rng.choice((0, 0, rng.randrange(len(words) - 4)))
        questions.append(("Again: " + " ".join(words[start:start + 2]), " " + " ".join(words[start + 2:]) + ".\n\n"))
    return {"facts": "Words: " + " ".join(words) + ".\n\n", "questions": questions}


def task(rng, lists=0.25, values=WORDS):
    return words_task(rng, values) if rng.random() < lists else facts_task(rng, values=values)


if __name__ == "__main__":
    r = random.Random(1)
    for _ in range(4):
        print(task(r))
