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
moon nest party queen school sheep star street thunder torch valley""".split()

OBJECTS = """drum ball book hat kite doll bell cup boat key lamp ring flute basket blanket coin spoon
scarf puzzle whistle teddy map clock shell rope crown pencil mirror ladder bag""".split()

PLACES = """attic kitchen garden barn cellar garage forest school library tower cave shop tent hall
bedroom bakery castle boat train park stable shed wagon cottage well bathroom market farm museum zoo""".split()

COLOURS = "red blue green yellow white black brown pink purple orange grey golden silver".split()

DOORS = "door box gate chest safe cupboard drawer trunk room locker".split()

# Each style: the line of a fact, the question, the answer line up to the value.
# {k} is the key, {v} the value. The value is always followed by a full stop.
STYLES = [
    ("words", "{k}'s secret word is {v}.", "What is {k}'s secret word?", "{k}'s secret word is"),
    ("words", "The password of {k} is {v}.", "What is the password of {k}?", "The password of {k} is"),
    ("words", "{k} likes the word {v}.", "Which word does {k} like?", "{k} likes the word"),
    ("codes", "The code of {k} is {v}.", "What is the code of {k}?", "The code of {k} is"),
    ("codes", "The number of {k} is {v}.", "What is the number of {k}?", "The number of {k} is"),
    ("doors", "The code of the {k} is {v}.", "What is the code of the {k}?", "The code of the {k} is"),
    ("doors", "To open the {k} you need the number {v}.", "Which number opens the {k}?", "To open the {k} you need the number"),
    ("owner", "{k} has the {v}.", "What does {k} have?", "{k} has the"),
    ("place", "{k} is in the {v}.", "Where is {k}?", "{k} is in the"),
    ("place", "{k} went to the {v}.", "Where did {k} go?", "{k} went to the"),
    ("hidden", "The {k} is in the {v}.", "Where is the {k}?", "The {k} is in the"),
    ("pairs", "{k}: {v}.", "{k}?", "{k}:"),
]

INTROS = ["Remember these facts.", "Facts:", "Here are some facts to remember.", "Read this carefully.", "Notes:"]


def keys_and_values(kind, count, rng):
    if kind == "words":
        return rng.sample(NAMES, count), rng.sample(WORDS, count)
    if kind == "codes":
        return rng.sample(NAMES, count), ["".join(rng.choice("0123456789") for _ in range(rng.choice((2, 3, 4)))) for _ in range(count)]
    if kind == "doors":
        things = rng.sample([f"{c} {d}" for c in COLOURS for d in DOORS], count)
        return things, ["".join(rng.choice("0123456789") for _ in range(4)) for _ in range(count)]
    if kind == "owner":
        colours = [rng.choice(COLOURS) for _ in range(count)]
        return rng.sample(NAMES, count), [f"{c} {o}" for c, o in zip(colours, rng.sample(OBJECTS, count))]
    if kind == "place":
        return rng.sample(NAMES, count), rng.sample(PLACES, count)
    if kind == "hidden":
        return rng.sample(OBJECTS, count), rng.sample(PLACES, count)
    return rng.sample(WORDS, count), rng.sample(WORDS, count)


def facts_task(rng, style=None):
    kind, fact, question, answer = STYLES[style] if style is not None else rng.choice(STYLES)
    count = rng.randint(2, 8)
    keys, values = keys_and_values(kind, count, rng)
    lines = [fact.format(k=k, v=v) for k, v in zip(keys, values)]
    order = list(range(count))
    rng.shuffle(order)
    return {"facts": rng.choice(INTROS) + "\n" + "\n".join(lines) + "\n\n",
            "questions": [(f"Question: {question.format(k=keys[i])}\nAnswer: {answer.format(k=keys[i])}",
                           f" {values[i]}.\n\n") for i in order]}


def words_task(rng):
    """A list of random words that comes back later, whole or from the middle."""
    words = [rng.choice(WORDS) for _ in range(rng.randint(6, 24))]
    questions = []
    for _ in range(4):
        start = rng.choice((0, 0, rng.randrange(len(words) - 4)))
        questions.append(("Again: " + " ".join(words[start:start + 2]), " " + " ".join(words[start + 2:]) + ".\n\n"))
    return {"facts": "Words: " + " ".join(words) + ".\n\n", "questions": questions}


def task(rng, lists=0.25):
    return words_task(rng) if rng.random() < lists else facts_task(rng)


if __name__ == "__main__":
    r = random.Random(1)
    for _ in range(4):
        print(task(r))
