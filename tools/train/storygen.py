"""A seeded generator of simple stories and short dialogues, written for quipu.

A story is a plot (a function that plays a chain of causes and effects) told with
alternative sentences for every beat. Characters keep their name, kind and pronouns,
objects keep their colour and place, and what a character says follows from what
happened. `pick` chooses among alternatives separated by `|`; `{a}` is a character,
`{a.he}`, `{a.him}`, `{a.his}` its pronouns (with a capital letter: `{a.He}`).

    python3 storygen.py --count 3 --seed 7 [--kind story|dialogue]
"""

import argparse
import random

import chinese

GIRLS = "Lily Mia Sara Anna Lucy Emma Rosie Amy Molly Ella Grace Nora Zoe Kate Ivy Ruby Daisy Jane Alice Clara Betty Hana Maya Lena Pia Tara Vera Suki Amina".split()
BOYS = "Tom Ben Max Tim Sam Jack Leo Bob Joe Dan Fred Peter Oscar Billy Henry Jim Mark Nick Paul Roy Luke Toby Omar Hugo Felix Finn Gus Ravi Kofi".split()
ANIMALS = "cat dog rabbit bear fox mouse bird duck frog squirrel owl turtle hedgehog pig cow goat lamb pony bee fish".split()
ANIMAL_NAMES = "Momo Pip Bella Rex Dot Fluffy Coco Bruno Nibbles Hopper Patch Sunny Biscuit Olly Tilly Benny Spot Rufus Waddle Pepper".split()
TRAITS = "kind|curious|brave|shy|clever|cheerful|careful|gentle|busy|quiet|funny|friendly|helpful|playful|stubborn|hopeful".split("|")
COLOURS = "red blue green yellow white brown pink purple orange grey".split()
TOYS = "ball kite drum boat doll train puzzle robot teddy truck balloon puppet".split()
TREASURES = "shell stone feather coin button bell key ring marble ribbon".split()
FOODS = [("some bread", "bread"), ("some soup", "soup"), ("some cake", "cake"), ("some cookies", "cookies"), ("some pie", "pie"),
         ("an apple", "apples"), ("a sandwich", "sandwiches"), ("some berries", "berries"), ("a pear", "pears"), ("some honey", "honey")]
OUTSIDE = [("the park", "by the big tree"), ("the garden", "next to the roses"), ("the forest", "under an old oak"),
           ("the beach", "near the rocks"), ("the farm", "behind the barn"), ("the meadow", "beside the stream"),
           ("the hill", "near the top"), ("the river", "under the bridge"), ("the lake", "by the little boat")]
HIDING = ["under the bed", "behind the sofa", "in the kitchen", "under a bush", "inside an old box", "on top of the shelf",
          "under the table", "behind the door", "in the laundry basket", "next to the garden gate", "under a pile of leaves"]
RELATIVES = [("mom", "f"), ("dad", "m"), ("grandma", "f"), ("grandpa", "m"), ("aunt", "f"), ("uncle", "m")]
JOBS = [("baker", "f"), ("farmer", "m"), ("teacher", "f"), ("doctor", "f"), ("postman", "m"), ("gardener", "m"), ("shopkeeper", "f"), ("fisherman", "m")]


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


class Person:
    """A character; formats as its name and knows its pronouns."""

    def __init__(self, name, sex, kind, trait):
        self.name, self.kind, self.trait = name, kind, trait
        self.he, self.him, self.his, self.himself = (
            ("she", "her", "her", "herself") if sex == "f" else ("he", "him", "his", "himself"))
        self.He, self.His = self.he.capitalize(), self.his.capitalize()
        self.The = name[0].upper() + name[1:]
        self.akind = article(f"{trait} {kind}")

    def __str__(self):
        return self.name


class Thing:
    def __init__(self, rng, names):
        self.name, self.colour = rng.choice(names), rng.choice(COLOURS)
        self.full = f"{self.colour} {self.name}"
        self.a = article(self.full)

    def __str__(self):
        return self.name


class Tale:
    """The state of one story: the cast, and the text so far."""

    def __init__(self, rng):
        self.rng = rng
        self.paragraphs = [[]]
        girl, other_girl = rng.sample(GIRLS, 2)
        boy, other_boy = rng.sample(BOYS, 2)
        pet = rng.choice(ANIMAL_NAMES)
        people = [Person(girl, "f", "girl", rng.choice(TRAITS)), Person(boy, "m", "boy", rng.choice(TRAITS)),
                  Person(other_girl, "f", "girl", rng.choice(TRAITS)), Person(other_boy, "m", "boy", rng.choice(TRAITS)),
                  Person(pet, rng.choice("fm"), rng.choice(ANIMALS), rng.choice(TRAITS))]
        rng.shuffle(people)
        a, b, c = people[:3]
        relative, sex = rng.choice(RELATIVES)
        worker, worker_sex = rng.choice(JOBS)
        place, spot = rng.choice(OUTSIDE)
        food, food_name = rng.choice(FOODS)
        self.words = {
            "a": a, "b": b, "c": c, "toy": Thing(rng, TOYS), "gem": Thing(rng, TREASURES),
            "rel": Person(f"{a.his} {relative}", sex, relative, "kind"), "Rel": relative.capitalize(),
            "job": Person(f"the {worker}", worker_sex, worker, "friendly"), "place": place, "spot": spot,
            "food": food, "foodname": food_name, "hiding": rng.choice(HIDING), "trait": a.trait,
            "colour": rng.choice(COLOURS), "n": rng.choice(["two", "three", "four", "five", "six"]),
        }

    def pick(self, text):
        return self.rng.choice(text.split("|")).strip().format(**self.words)

    def say(self, *beats):
        """One sentence group per beat, in this paragraph."""
        for beat in beats:
            self.paragraphs[-1].append(self.pick(beat))

    def maybe(self, chance, *beats):
        if self.rng.random() < chance:
            self.say(*beats)

    def new(self):
        if self.paragraphs[-1]:
            self.paragraphs.append([])

    def text(self):
        return "\n".join(" ".join(p) for p in self.paragraphs if p)


# ---- beats that many plots share -------------------------------------------------

def opening(t):
    t.say("Once upon a time, there was {a.akind} named {a}.|"
          "Once upon a time, {a.akind} named {a} lived near {place}.|"
          "There once was {a.akind}. {a.His} name was {a}.|"
          "{a} was {a.akind}.|"
          "Once there was {a.akind} called {a}.|"
          "In a small town there lived {a.akind} named {a}.|"
          "Long ago, {a.akind} named {a} lived in a little house.")
    t.maybe(0.7, "{a} loved to play outside.|{a.He} liked to sing in the morning.|{a.He} lived with {rel} and a sleepy old cat.|"
                 "Every day, {a.he} went to {place}.|{a.He} liked to ask a lot of questions.|{a.His} best friend was {b}.|"
                 "Everybody liked {a} because {a.he} was so {trait}.|{a.He} had a small room with a big window.|"
                 "{a} wanted to learn something new every day.|{a.He} liked {food} more than anything.")
    t.maybe(0.4, "The sun was shining and the birds were singing.|It was a cold and windy day.|It was raining, and the streets were wet.|"
                 "The sky was blue and there were no clouds.|It was a quiet morning.|Snow lay on the roofs and on the trees.|"
                 "The air was warm and smelled like flowers.|Leaves were falling from the trees.")


def ending(t, lesson):
    t.new()
    t.say("That night, {a} went to bed with a smile.|From that day on, {a} and {b} were the best of friends.|{a} was very happy.|"
          "They went home together, and {rel} made {food} for everyone.|It was the best day {a} could remember.|"
          "{a} told {rel} the whole story, and {rel} gave {a.him} a big hug.|Everyone laughed, and then it was time to go home.|"
          "And so the day ended well.")
    t.maybe(0.6, lesson)
    t.maybe(0.2, "The end.")


# ---- plots -----------------------------------------------------------------------

def lost_toy(t):
    opening(t)
    t.say("{a} had {toy.a}. It was {a.his} favorite toy.|{a.His} favorite toy was {toy.a}.|For {a.his} birthday, {a} got {toy.a} from {rel}.")
    t.new()
    t.say("One day, {a} could not find the {toy}.|One morning, the {toy} was gone.|But one day, the {toy} was not in its place.")
    t.say("{a.He} looked under the chair, but it was not there.|{a.He} looked everywhere, but {a.he} could not see it.|"
          "{a.He} opened every box in the house. There was no {toy}.|{a.He} felt very sad and began to cry.")
    t.say('"Where is my {toy}?" {a} asked.|"I have lost my {toy}," said {a}. "Can you help me?"|"Oh no! My {toy} is gone!" cried {a}.')
    t.say('"Do not cry," said {b}. "I will help you look."|{b} came to help. "When did you see it last?" {b.he} asked.|'
          '"Let us look for it together," said {b}.')
    t.new()
    t.say("They looked and looked. At last, {b} found the {full_toy} {hiding}.|{b} looked {hiding}, and there was the {toy}!|"
          "After a long time, {a} saw something {toy_colour} {hiding}. It was the {toy}!".replace("{full_toy}", "{toy.full}").replace("{toy_colour}", "{toy.colour}"))
    t.say('"Here it is!" {b} said.|"Look what I found!" called {b}.|"Hooray!" they shouted.')
    t.say('"Thank you, {b}," said {a}. "You are a good friend."|{a} jumped up and down. "Thank you so much!" {a.he} said.|{a} hugged {b} and said thank you.')
    ending(t, "{a} learned to put {a.his} toys away.|After that, {a} always put the {toy} back in its place.|{a} knew that friends make hard things easy.")


def sharing(t):
    opening(t)
    t.say("One day, {a} took {a.his} {toy} to {place}.|{a} had {toy.a}, and {a.he} carried it to {place}.")
    t.say("{b} was there too, and {b.he} had nothing to play with.|There {a.he} met {b}. {b.He} looked at the {toy} for a long time.")
    t.new()
    t.say('"Can I play with your {toy}?" asked {b}.|"That is a nice {toy}," said {b}. "May I try it?"')
    t.say('"No, it is mine!" said {a}.|{a} held the {toy} tight and shook {a.his} head.|"I do not want to share," said {a}.')
    t.say("{b} felt sad and walked away.|{b} sat down alone and looked at the ground.|A tear ran down {b.his} face.")
    t.new()
    t.say("{a} played alone, but it was not much fun.|Soon {a} was bored. It was no fun to play alone.|{a} looked at {b} and felt bad.")
    t.say('{a} thought about it. Then {a.he} went to {b} and said, "I am sorry. Let us play together."|"{b}, wait!" called {a}. "You can have a turn."|'
          '{a} gave the {toy} to {b}. "I am sorry," {a.he} said. "You go first."')
    t.say("{b} smiled, and they played until the sun went down.|They took turns with the {toy} and laughed a lot.|{b} was so happy that {b.he} danced around the tree.")
    ending(t, "{a} learned that sharing makes play more fun.|Now {a} always shares {a.his} toys.|A toy is more fun when two can play with it.")


def afraid(t):
    opening(t)
    t.words["fear"] = t.rng.choice(["the dark", "loud noises", "deep water", "high places", "thunder", "big dogs"])
    t.say("But {a} was afraid of {fear}.|There was one thing {a} did not like. {a.He} was scared of {fear}.")
    t.maybe(0.5, "{a.He} never told anyone about it.|When {a.he} thought about it, {a.he} wanted to hide under a blanket.")
    t.new()
    t.say('One day, {b} asked, "Why do you look so worried?"|"What is wrong?" asked {b} one evening.')
    t.say('"I am afraid of {fear}," said {a} in a small voice.|{a} looked down. "I am scared of {fear}," {a.he} said.')
    t.say('"That is all right," said {b}. "I was afraid once too. Hold my hand."|{b} did not laugh. "Everyone is afraid of something," {b.he} said.|'
          '"Let us try together," said {b}. "If you want to stop, we will stop."')
    t.new()
    t.say("They took one small step, and then another.|{a} took a deep breath and counted to three.|First {a} closed {a.his} eyes. Then {a.he} opened them slowly.")
    t.say("It was not so bad after all.|Nothing bad happened.|{a.His} heart was beating fast, but {a.he} did not run away.")
    t.say('"I did it!" shouted {a}.|"You did it!" said {b}. "You are very brave."|"That was not so scary," said {a}, and {a.he} laughed.')
    ending(t, "{a} learned that being brave means trying even when you are scared.|Now {a} is not so afraid of {fear}.|With a friend, scary things become small.")


def helping_animal(t):
    opening(t)
    t.words["pet"] = t.rng.choice(["bird", "kitten", "puppy", "rabbit", "duck", "hedgehog", "squirrel", "lamb"])
    t.words["hurt"] = t.rng.choice(["its leg was hurt", "it was stuck in a net", "it was cold and wet", "it could not find its mother", "it was very hungry"])
    t.say("One day, {a} walked to {place}.|One afternoon, {a} and {rel} went to {place}.|{a} went for a walk near {place}.")
    t.say("{a.He} heard a small sound {spot}.|Something moved {spot}.|{a.He} saw something small {spot}.")
    t.say("It was a little {pet}, and {hurt}.|A little {pet} was sitting there all alone, and {hurt}.")
    t.new()
    t.say('"You poor thing," said {a}. "I will help you."|"Do not be afraid," {a} said softly. "I will not hurt you."|{a} felt sorry for the {pet}.')
    t.say("{a.He} picked it up very gently and took it home.|{a.He} wrapped the {pet} in a warm scarf and carried it home.|{a.He} ran to get {rel}, and they came back with a basket.")
    t.say("{rel.The} found a soft blanket and some water.|At home they gave it food and made a bed in a box.|{rel.The} knew what to do.")
    t.new()
    t.say("Every day, {a} took care of the {pet}.|{a} sat by the {pet} and sang to it.|For {n} days, {a} fed the {pet} and talked to it.")
    t.say("Soon the {pet} was well again.|After some days the {pet} was strong and happy.|One morning, the {pet} jumped out of the box.")
    t.say("{a} was sad to say goodbye, but {a.he} knew the {pet} wanted to go home.|They took it back to {place}, and it ran to its family.|"
          "The {pet} did not want to leave, so it stayed and became part of the family.")
    ending(t, "{a} learned that a little kindness can change everything.|It feels good to help someone small.|{a} wanted to become an animal doctor one day.")


def baking(t):
    opening(t)
    t.words["for_who"] = t.rng.choice(["for {b}", "for the school party", "for {rel}"]).format(**t.words)
    t.say("One day, {a} wanted to bake a cake {for_who}.|{a} had an idea. {a.He} would make a cake {for_who}!")
    t.say('"Can you help me?" {a} asked {job}.|{job.The} said, "I can show you how."|{a} asked {job} how to do it.')
    t.new()
    t.say("They put flour, eggs and sugar in a big bowl.|First they mixed the eggs and the milk. Then they added the flour.|They washed their hands and took out a big bowl.")
    t.maybe(0.6, "{a} stirred and stirred until {a.his} arm was tired.|Some flour fell on {a.his} nose, and they both laughed.|It smelled very sweet.")
    if t.rng.random() < 0.5:
        t.say("But {a} forgot to look at the clock. Soon there was smoke!|But {a} used salt and not sugar. The cake tasted awful!|But the bowl fell on the floor and broke.")
        t.say('"Oh no! I spoiled it," said {a}.|{a} wanted to give up.|{a} almost cried.')
        t.say('"Everyone makes mistakes," said {job}. "We can try again."|"Do not worry," said {job}. "The second cake is often better than the first."')
        t.say("So they tried again, and this time they were careful.|They cleaned up and started again.")
    t.new()
    t.say("The cake was soft and warm.|When the cake was ready, it was golden and tall.|At last the cake was done, and {a} put {n} berries on top.")
    t.say('"This is the best cake ever!" everyone said.|Everybody had a big piece, and nothing was left.|"You made this?" {b} asked. "It is delicious!"')
    ending(t, "{a} learned that you must not give up.|{a} was proud because {a.he} had made it {a.himself}.|Good things take time.")


def race(t):
    opening(t)
    t.say("One day, there was a big race at {place}.|{a} and {b} wanted to know who was faster.|Every summer there was a race to {place}.")
    t.say('"I will win for sure," said {b}.|{b} was very fast, and {b.he} knew it.|"You are too slow," said {b} to {a}.')
    t.say("{a} did not say anything. {a.He} practiced every day.|{a} wanted to do {a.his} best.|{a} was nervous, but {a.he} tied {a.his} scarf and got ready.")
    t.new()
    t.say('"Ready, set, go!" called {job}.|{job.The} waved a flag, and the race began.|When the bell rang, they all started to run.')
    t.say("{b} ran ahead and soon was far away.|At first, {b} was in front.|{b} ran so fast that {a} could not see {b.him}.")
    e = t.rng.randrange(3)
    if e == 0:
        t.say("Then {b} stopped to eat {food}, because {b.he} thought {b.he} had time.|Because {b.he} was sure to win, {b} sat down for a rest and fell asleep.")
        t.say("{a} kept going, step by step.|{a} did not stop. {a.He} ran past {b} and did not look back.")
        t.say("{a} was the first to reach the end!|When {b} looked up, it was too late. {a} had won!")
        ending(t, "{b} learned that you should not be too proud.|Slow and steady is a good way to win.|{b} said, \"You did well, {a}. I should have tried harder.\"")
    elif e == 1:
        t.say("Suddenly {b} fell and hurt {b.his} knee.|Then {b} tripped over a stone and fell down.")
        t.say("{a} could run past and win. But {a.he} stopped.|{a} saw it and stopped right away.")
        t.say('"Are you all right?" asked {a}. "Let me help you up."|{a} helped {b} to stand. "We can walk together," {a.he} said.')
        t.say("They came to the end together, hand in hand, and everyone clapped.|They did not win, but they both got a prize for being good friends.")
        ending(t, "{b} never said mean things again.|It is better to be kind than to be first.|{a} knew that a friend is more important than a prize.")
    else:
        t.say("{a} ran as fast as {a.he} could.|{a} did not give up.")
        t.say("In the end, {b} won, and {a} was second.|{b} came first, but {a} was close behind.")
        t.say('"Well done!" said {a}, and {a.he} shook hands with {b}.|{a} was a little sad, but {a.he} clapped for {b}.')
        t.say('"You are very fast too," said {b}. "Let us train together."|{b} smiled and gave {a} half of the prize.')
        ending(t, "{a} learned that losing is not so bad.|Next year, {a} would try again.|You do not have to win to have fun.")


def treasure(t):
    opening(t)
    t.say("One day, {a} found an old map {hiding}.|{rel.The} gave {a} an old map.|{a} and {b} saw a piece of paper {hiding}. It was a map!")
    t.say('"Look, there is a cross {spot}," said {a}.|The map showed the way to {place}.|"I think it is a treasure map!" said {b}.')
    t.new()
    t.say("{a} and {b} packed {food} and a bottle of water.|They took a rope and a shovel, and off they went.|They told {rel} where they were going, and then they left.")
    t.say("They walked over a bridge and through tall grass.|They crossed a stream and climbed over a wall.|The way was long, and their feet were tired.")
    t.maybe(0.5, 'They got lost, but {b} remembered the way. "We have to turn left," {b.he} said.|It began to rain, so they waited under a tree.|A {colour} butterfly flew ahead of them, as if it knew the way.')
    t.new()
    t.say("When they came to {place}, they began to dig {spot}.|At last they stood in front of the right place. They dug and dug.")
    t.say("They found a small box. Inside was {gem.a}.|There was a box, and in the box there was {gem.a}!|The shovel hit something hard. It was a chest with {gem.a} in it.")
    t.say('"It is beautiful," said {b}.|"We did it!" they shouted.|They could not believe their eyes.')
    t.say("{a} gave the {gem} to {b}, because {b} had helped so much.|They put the {gem} in the window, where all could see it.|They took the {gem} home and showed it to {rel}.")
    ending(t, "The real treasure was the day they had together.|{a} kept the map for ever.|{a} hoped to find another map one day.")


def lie(t):
    opening(t)
    t.words["broken"] = t.rng.choice(["vase", "plate", "cup", "lamp", "window", "clock", "bowl"])
    t.say("One day, {a} was playing with {a.his} {toy} in the house.|{a} was running around the table, though {rel} had told {a.him} not to.")
    t.say("Crash! The {broken} fell and broke.|{a.He} did not look, and {a.he} broke the {broken}.|There was a loud noise. The {broken} was in pieces.")
    t.new()
    t.say('{rel.The} came in. "Who broke the {broken}?" {rel.he} asked.|"What happened to the {broken}?" asked {rel}.')
    t.say('"It was {b}," said {a}.|{a} was scared. "I do not know," {a.he} said.|"I think the wind did it," said {a}, but it was not true.')
    t.say("{a} did not feel good. {a.His} stomach hurt.|All day {a} thought about it, and {a.he} could not play.|At dinner, {a} could not eat.")
    t.new()
    t.say('In the evening, {a} went to {rel}. "I have to tell you something," {a.he} said. "I broke the {broken}. I am sorry."|'
          '{a} started to cry. "It was me," {a.he} said. "I broke it, and then I lied."')
    t.say('"Thank you for telling me the truth," said {rel}. "I am not angry."|{rel.The} hugged {a.him}. "A broken {broken} is not so bad," {rel.he} said. "But a lie hurts."')
    t.say("Together they cleaned up and glued the pieces.|The next day, {a} helped to buy a new {broken}.|{a} used {a.his} own money to pay for a new one.")
    ending(t, "{a} learned to tell the truth.|{a} never lied about such things again.|The truth is hard to say, but it makes the heart light.")


def garden(t):
    opening(t)
    t.words["plant"] = t.rng.choice(["sunflower", "carrot", "tomato", "pumpkin", "bean", "rose", "strawberry"])
    t.say("One spring day, {rel} gave {a} a small seed.|{a} found a little seed and showed it to {rel}.|{job.The} gave {a} a bag with one tiny seed.")
    t.say('"What is it?" asked {a}. "Put it in the earth and wait," said {rel}.|"If you take care of it, it will grow," said {rel}.')
    t.say("{a} dug a hole and put the seed in.|{a} planted it next to the wall, where the sun was warm.|{a.He} put it in a pot by the window.")
    t.new()
    t.say("Every day, {a} gave it water.|In the morning and in the evening, {a} came to look.|{a} watered it and talked to it.")
    t.say("But nothing happened. Day after day, there was only brown earth.|For many days there was nothing to see.|{a} waited and waited.")
    t.say('"Maybe it is sleeping," said {b}.|"It will never grow," said {a}. {rel.The} said, "Be patient."|{a} wanted to dig it up, but {b} said, "Wait a little longer."')
    t.new()
    t.say("Then one morning, there was a little green leaf!|After the rain, something green came out of the ground.|One day, {a} shouted, \"It is growing!\"")
    t.say("It grew taller and taller, and soon there was a big {plant}.|By summer, it was a beautiful {plant}.|The {plant} grew until it was taller than {a}.")
    t.say("Everybody came to see it.|{a} gave some seeds to {b}, so that {b} could grow one too.|Bees and butterflies came to visit.")
    ending(t, "{a} learned to be patient.|Good things need time to grow.|{a} wanted to plant a whole garden next year.")


def new_friend(t):
    opening(t)
    t.say("One day, a new neighbor moved in. The name of the new neighbor was {b}.|There was someone new at school. It was {b}, who came from far away.")
    t.say("{b} was shy and did not talk to anyone.|{b} stood alone by the wall.|The others did not play with {b}, because they did not know {b.him}.")
    t.new()
    t.say('{a} walked up to {b} and said, "Hi, my name is {a}. Do you want to play?"|{a} thought, "{b} looks lonely." So {a.he} went over and smiled.|'
          '"Would you like some of my {foodname}?" {a} asked.')
    t.say('"Yes, please," said {b} quietly.|{b} looked up and smiled for the first time.|"Really? I would like that," said {b}.')
    t.say("They built a tower out of blocks.|They played hide and seek until it was dark.|They drew pictures with {n} colors.|{b} showed {a} a game from {b.his} old home.")
    t.maybe(0.6, "{b} could do something special. {b.He} could whistle like a bird!|{a} learned that {b} knew many funny stories.|{b} told {a} about the sea and the big ships.")
    t.new()
    t.say("The next day, {c} came to play too.|Soon the others wanted to play with them.|After that, {b} was not alone any more.")
    ending(t, "{a} learned that a smile can make a new friend.|It only takes one word to start a friendship.|{b} never forgot that day.")


def storm(t):
    opening(t)
    t.say("One day, {a} and {b} were playing at {place}.|{a} and {b} went to {place} to fly a kite.")
    t.say("Suddenly, the sky became dark.|Big grey clouds came over the hill.|A strong wind began to blow.")
    t.say("Boom! There was thunder, and it began to rain.|Rain fell, first a little, then a lot.|The wind blew so hard that the trees began to bend.")
    t.new()
    t.say('"We must go home!" said {a}.|"I am scared," said {b}.|"Quick, let us run!" called {b}.')
    t.say("But the way home was full of water.|But they could not see the path.|But the bridge was too wet and slippery.")
    t.say('"Look, there is a cabin," said {a}. They ran inside.|They found a dry cave and sat down close together.|{a} saw a light. It was the house of {job}.')
    t.new()
    t.say("They sang songs so that they would not be afraid.|To pass the time, {a} told a story about a brave mouse.|They shared {food} and waited.")
    t.say("After a while, the rain stopped.|At last the wind became quiet.|Then the sun came out again.")
    t.say('"Look, a rainbow!" said {b}.|There was a big rainbow over {place}.|Everything smelled fresh, and the grass was shining.')
    t.say("{rel.The} was waiting at the door. \"I am so glad you are safe,\" {rel.he} said.|They ran home, and {rel} gave them dry clothes and {food}.")
    ending(t, "{a} and {b} knew that they could be brave together.|After every storm comes the sun.|Next time, they looked at the sky before they left.")


def too_much(t):
    opening(t)
    t.words["foodname"] = t.rng.choice(["cake", "bread", "pie", "honey", "soup", "ice cream", "jam", "pudding"])
    t.say("{a} loved {foodname}. {a.He} could eat it all day.|{a} thought that {foodname} was the best thing in the world.")
    t.say('One day, {rel} made a lot of it. "You may have one piece," {rel.he} said.|There was a big plate on the table. "This is for the party," said {rel}. "Please do not eat it."')
    t.new()
    t.say("When nobody was looking, {a} took one bite. Then {a.he} took another.|{a} looked at the plate. It smelled so good! {a.He} ate a little, and then a little more.")
    t.say("Soon the plate was empty.|{a.He} did not stop until everything was gone.")
    t.say('"Oh, my stomach hurts," said {a}.|Then {a} felt sick and had to lie down.|{a.He} could not even get up from the chair.')
    t.new()
    t.say('{rel.The} saw the empty plate. "{a}, what have you done?" {rel.he} asked.|"Now there is nothing left for the others," said {rel}.')
    t.say('"I am sorry," said {a}. "I wanted just one more."|{a} was ashamed. "I will help you make more," {a.he} said.')
    t.say("So the next day they went to the kitchen and made more, and {a} gave the first piece to {b}.|When {a} felt better, {a.he} helped {rel}, and this time {a.he} shared with {b} and {c}.")
    ending(t, "{a} learned that too much of a good thing is not good.|Now {a} asks before {a.he} eats.|One piece is enough when you share the rest.")


def clever_plan(t):
    opening(t)
    t.words["thing_high"] = t.rng.choice(["kite", "ball", "hat", "balloon", "scarf"])
    t.say("One day, the wind took {a.his} {thing_high} and blew it into a tall tree.|{a} threw {a.his} {thing_high} up, and it got stuck in a tree.")
    t.say("{a} jumped, but {a.he} was too small.|{a.He} could not reach it.|{a} tried to climb, but the tree was too high.")
    t.new()
    t.say('{b} came by. "I can push the tree," {b.he} said. {b} pushed and pushed, but the tree did not move.|'
          '"I will throw a stick," said {b}. But the stick got stuck too.|{b} blew as hard as {b.he} could, but nothing happened.')
    t.say('Then {c} came. "What are you doing?" {c.he} asked.|{c} saw them and stopped. "Do you need help?"')
    t.say('"My {thing_high} is up there," said {a}.|{a} pointed at the tree. "We cannot get it down," {a.he} said.')
    t.new()
    t.say('{a} had an idea. "If we stand on each other, we are tall!"|{c} thought for a while. "Alone we are small," {c.he} said, "but together we are big."')
    t.say("So {b} stood on the ground, {c} stood on {b}, and {a} climbed to the top.|They found a ladder in the shed and carried it together, because it was too heavy for one.")
    t.say("{a} reached out and took the {thing_high}.|And then {a} had the {thing_high} in {a.his} hand!")
    t.say('"Hooray!" they cried, and they all fell into the soft grass.|They laughed so much that they almost fell down.')
    ending(t, "Together they could do what one could not do alone.|{a} learned to ask for help.|A good plan is better than a strong arm.")


def wish(t):
    opening(t)
    t.words["wish"] = t.rng.choice(["to fly like a bird", "to be as tall as a tree", "to talk with animals", "to be very small", "to never go to bed"])
    t.say("{a} had one wish. {a.He} wanted {wish}.|Every night, {a} looked at the stars and wished {wish}.")
    t.new()
    t.say("One night, a little star fell into the garden.|One day, {a} found {gem.a} {spot}. It began to glow!|One evening, a tiny fairy sat on {a.his} pillow.")
    t.say('"I will give you your wish for one day," said a soft voice.|"You have been so {trait}," it said. "Your wish will come true."')
    t.say("{a} closed {a.his} eyes, and when {a.he} opened them, it was true!|There was a bright light, and then everything was different.")
    t.new()
    t.say("At first, it was wonderful.|{a} laughed and shouted with joy.|All morning {a} had so much fun.")
    t.say("But then {a} wanted to play with {b}, and it did not work any more.|But soon {a} felt lonely, because no one else was like {a.him}.|But when {rel} called for dinner, {a} could not come.")
    t.say('"I want to be like before," said {a}.|{a} missed {a.his} family. "Please change me back," {a.he} said.')
    t.say("In the morning, {a} was in {a.his} own bed, and everything was as it had been.|The light came again, and {a} was {a.himself} once more.")
    t.say('"Was it a dream?" {a} asked. But on the table lay the {gem.full}.|{a} ran to {rel} and gave {rel.him} a long hug.')
    ending(t, "{a} was happy to be just {a}.|{a} learned that home is the best place.|Be careful what you wish for.")


def lost_way(t):
    opening(t)
    t.say("One day, {a} and {rel} went to {place}.|{a} went with {rel} to a big market.")
    t.say("{a} saw {toy.a} and stopped to look at it.|{a} followed a {colour} butterfly and did not look back.|There was so much to see that {a} forgot to hold {rel_his} hand.".replace("{rel_his}", "{rel.his}"))
    t.say("When {a.he} turned around, {rel} was gone.|Then {a} looked up, and there were only strangers.")
    t.new()
    t.say('{a} was scared. "What should I do?" {a.he} thought.|{a.His} eyes filled with tears.|{a} wanted to run, but then {a.he} remembered what {rel} always said: "If you are lost, stay where you are."')
    t.say('{job.The} saw {a.him} and asked, "Are you lost?"|{a} went to {job} and said, "I cannot find my family."')
    t.say('"Do not worry," said {job}. "We will find them. What is your name?"|"What does your family look like?" asked {job}.')
    t.say('"My name is {a}," {a.he} said.|{a} told {job.him} everything.')
    t.new()
    t.say("They waited together, and {job} gave {a} {food}.|{job.The} called out loud, and soon there was an answer.")
    t.say('"{a}!" somebody called. It was {rel}!|Then {rel} came running and took {a} in {rel.his} arms.')
    t.say('"I am so happy that I found you," said {rel}.|"You did the right thing," said {rel}. "You asked for help."')
    ending(t, "{a} thanked {job} and promised to stay close.|After that, {a} always held on tight.|{a} learned to stay calm and ask for help.")


def music(t):
    opening(t)
    t.words["inst"] = t.rng.choice(["flute", "drum", "piano", "violin", "guitar", "trumpet"])
    t.say("{a} wanted to play the {inst}.|One day, {a} heard someone play the {inst}. It was so beautiful that {a.he} stood still.")
    t.say("But when {a.he} tried, it sounded terrible.|The first time, it made a very bad noise, and {b} covered {b.his} ears.")
    t.say('"Please stop!" said {b}.|"I will never learn it," said {a}.|The dog next door began to howl.')
    t.new()
    t.say('"Practice a little every day," said {job}.|{rel.The} said, "Nobody is good on the first day."|"I will teach you," said {rel}. "We will go slowly."')
    t.say("So {a} practiced every day after school.|{a} played in the morning and in the evening, a little at a time.|Day after day, {a} tried again.")
    t.say("After a week, it was a little better. After a month, it was good.|Slowly, the sounds became a song.")
    t.new()
    t.say("In the summer there was a party at {place}, and {a} played for everyone.|On {rel.his} birthday, {a} played a song for {rel}.")
    t.say("Everybody was quiet and listened.|{a.His} hands were shaking, but {a.he} did not make one mistake.")
    t.say('"That was wonderful!" said {b}. "I am sorry that I laughed."|They all clapped and asked for one more song.|{rel.The} had tears in {rel.his} eyes, because {rel.he} was so proud.')
    ending(t, "{a} learned that practice makes you better.|Now {b} wants to learn it too.|Do not give up when something is hard.")


def surprise(t):
    opening(t)
    t.say("It was {b_his} birthday, but {b} thought that everyone had forgotten it.|Tomorrow was the birthday of {b}, and {a} wanted to plan a surprise.".replace("It was {b_his} birthday", "It was the birthday of {b}"))
    t.say('"Shh," said {a} to {c}. "{b} must not know."|{a} and {c} met in secret.|{a} asked {c} to help.')
    t.new()
    t.say("{c} made {food}, and {a} hung up {n} {colour} balloons.|{a} wrapped {toy.a} in paper, and {c} painted a card.")
    t.maybe(0.5, "They had to hurry, because {b} was coming home soon.|Once {b} almost saw them, but {c} closed the door just in time.")
    t.say("{b} came home and opened the door. It was dark and quiet.|In the evening, {b} walked in slowly. {b.He} looked sad.")
    t.say('"Surprise!" shouted everyone.|The lights went on. "Happy birthday, {b}!" they all called.')
    t.new()
    t.say('"I thought you forgot," said {b}, and {b.he} began to laugh.|{b} was so surprised that {b.he} could not speak.')
    t.say("{b} opened the present. It was {toy.a}!|They ate, danced and played games until late.")
    t.say('"This is my best birthday," said {b}. "Thank you, {a}. Thank you, {c}."|{b} gave them both a hug.')
    ending(t, "Making someone happy made {a} happy too.|{a} was already thinking about the next surprise.|Good friends do not forget.")


def stubborn_door(t):
    opening(t)
    t.words["where"] = t.rng.choice(["in the old house on the hill", "at the end of the hall", "behind the apple tree", "in the cellar of the school"])
    t.say("There was a small {colour} door {where}.|One day, {a} saw a little {colour} door {where}.")
    t.say("It was always locked.|Nobody knew what was behind it.|{a} wanted to know what was inside.")
    t.new()
    t.say('"Do you have the key?" {a} asked {job}.|{a} asked {rel} about the door. "I have never seen it open," {rel.he} said.')
    t.say('"You have to look for {gem.a} with a number on it," said {job}. "That will help you."|"Only somebody who is {trait} can open it," people said.')
    t.say("{a} and {b} looked for the key for {n} days.|{a} looked {hiding}, and there was a small key!|At last {b} found a key in an old shoe.")
    t.new()
    t.say("The key turned with a click, and the door opened slowly.|{a} put the key in the lock. Click! It was open.")
    t.say("Behind it was a tiny room full of books.|Inside was a garden with flowers that {a} had never seen.|There they found a box of old toys and a letter.|There was a family of mice who were having dinner.")
    t.say('"How lovely!" whispered {b}.|"So that is the secret," said {a}.|They stood still and looked.')
    t.say("It became their secret place, and they went there every week.|They told {rel}, and soon all the children came to visit.|{a} closed the door quietly and smiled.")
    ending(t, "{a} learned that asking questions opens doors.|Some secrets are worth the wait.|{a} kept the key safe for ever.")


PLOTS = [lost_toy, sharing, afraid, helping_animal, baking, race, treasure, lie, garden, new_friend,
         storm, too_much, clever_plan, wish, lost_way, music, surprise, stubborn_door]


def story(rng):
    t = Tale(rng)
    rng.choice(PLOTS)(t)
    return sentence_capitals(t.text())


def sentence_capitals(text):
    # A sentence that begins with "her mom" or "the baker" gets its capital letter.
    out, start = [], True
    for ch in text:
        if start and ch.isalpha():
            ch, start = ch.upper(), False
        elif ch in ".!?\n":
            start = True
        elif start and ch not in ' "':
            start = False
        # After a closing quote that ends in . ! or ?, the sentence may go on: "..." said he.
        if ch == '"' and out and out[-1] in ".!?":
            start = False
        out.append(ch)
    return "".join(out)


# ---- dialogues -------------------------------------------------------------------

SYSTEM = ["You are a friendly storyteller.", "You are a helpful assistant.", "You answer in short and simple sentences."]


def chat(turns, system=None):
    out = [f"<|im_start|>system\n{system}<|im_end|>\n"] if system else []
    for i, text in enumerate(turns):
        out.append(f"<|im_start|>{'assistant' if i % 2 else 'user'}\n{text}<|im_end|>\n")
    return "".join(out)


def ask_story(rng):
    t = Tale(rng)
    plot = rng.choice(PLOTS)
    plot(t)
    a = t.words["a"]
    text = sentence_capitals(t.text())
    ask = rng.choice(["Tell me a story.", "Please tell me a short story.", "Can you tell me a story?", "I cannot sleep. Tell me a story.",
                      f"Tell me a story about {article(a.kind)}.", f"Tell me a story about {article(a.kind)} named {a}.",
                      f"Write a short story about {a}.", f"Can you tell me a story about {a}?"])
    turns = [ask, text]
    if rng.random() < 0.5:
        turns += rng.choice([
            [f"Who is the story about?", f"The story is about {a}. {a.He} is {a.akind}."],
            ["Thank you!", "You are welcome. I am glad that you liked it."],
            [f"What is {a} like?", f"{a} is {a.trait}."],
            [f"Is {a} a girl or a boy?" if a.kind in ("girl", "boy") else f"What kind of animal is {a}?",
             f"{a} is {article(a.kind)}."],
            ["Good night!", "Good night! Sleep well."]])
    return turns


def small_talk(rng):
    name = rng.choice(GIRLS + BOYS)
    other = rng.choice(GIRLS + BOYS)
    colour, toy = rng.choice(COLOURS), rng.choice(TOYS)
    animal, pet = rng.choice(ANIMALS), rng.choice(ANIMAL_NAMES)
    food, food_name = rng.choice(FOODS)
    place = rng.choice(OUTSIDE)[0]
    turns = rng.choice([
        ["Hello!", "Hello! How can I help you today?"],
        ["Hi, how are you?", "I am fine, thank you. How are you?"],
        ["Good morning!", "Good morning! I hope you have a nice day."],
        ["Who are you?", "I am a very small language model. I can tell simple stories."],
        ["What can you do?", "I can tell stories and answer simple questions about what you tell me."],
    ])
    pairs = [
        [f"My name is {name}.", f"Nice to meet you, {name}!"],
        [f"I have {article(colour)} {toy}.", f"{article(colour).capitalize()} {toy}? That sounds fun."],
        [f"My {animal} is called {pet}.", f"{pet} is a lovely name for {article(animal)}."],
        [f"I like {food_name}.", f"I am glad that you like {food_name}."],
        [f"Yesterday I went to {place} with {other}.", f"How nice! I hope that you and {other} had fun at {place}."],
    ]
    asks = [
        ["What is my name?", f"Your name is {name}."],
        [f"What color is my {toy}?", f"Your {toy} is {colour}."],
        [f"What is my {animal} called?", f"Your {animal} is called {pet}."],
        ["What do I like to eat?", f"You like {food_name}."],
        ["Where did I go yesterday?", f"You went to {place} with {other}."],
    ]
    chosen = sorted(rng.sample(range(5), rng.randint(1, 4)))
    for i in chosen:
        turns = turns + pairs[i]
    if rng.random() < 0.4:
        count = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
        n = rng.randint(2, 9)
        turns = turns + rng.choice([
            [f"Can you count to {count[n]}?", ", ".join(count[:n + 1]).capitalize() + "."],
            ["Tell me three animals.", "Here are three animals: " + ", ".join(rng.sample(ANIMALS, 3)) + "."],
            ["Tell me a color.", f"{rng.choice(COLOURS).capitalize()}."],
            [f"What is {n} plus 1?", f"{n} plus 1 is {n + 1}."],
            ["What does a cow say?", "A cow says moo."],
            ["How many legs does a dog have?", "A dog has four legs."],
            ["What color is the sky?", "The sky is blue."]])
    rng.shuffle(chosen)
    for i in chosen:
        turns = turns + asks[i]
    if rng.random() < 0.4:
        turns = turns + rng.choice([["Thank you.", "You are welcome!"], ["Goodbye!", "Goodbye! Come back soon."], ["Bye!", f"Bye, {name}!" if 0 in chosen else "Bye!"]])
    return turns


def reading(rng):
    """A short text in the question, and a question about it."""
    t = Tale(rng)
    a, b = t.words["a"], t.words["b"]
    place, food = t.words["place"], t.words["food"]
    gem, toy = t.words["gem"], t.words["toy"]
    hiding = t.words["hiding"]
    text = rng.choice([
        f"{a} has {toy.a}. {b} has {gem.a}. They play at {place}.",
        f"{a} put the {toy.full} {hiding}. Then {a.he} went to {place} with {b}.",
        f"{b} gave {gem.a} and {toy.a} to {a}. They met at {place}."])
    options = [("Where are they?" if "play at" in text else "Where did they meet?" if "met" in text else f"Where did {a} go?",
                f"They are at {place}." if "play at" in text else f"They met at {place}." if "met" in text else f"{a} went to {place}."),
               (f"What color is the {toy}?", f"The {toy} is {toy.colour}.")]
    if "put the" in text:
        options.append((f"Where is the {toy}?", f"The {toy} is {hiding}."))
    question, answer = rng.choice(options)
    return [f"{text} {question}", answer]


def dialogue(rng):
    r = rng.random()
    if r < 0.45:
        turns = ask_story(rng)
    elif r < 0.75:
        turns = small_talk(rng)
    elif r < 0.88:
        turns = reading(rng)
        if rng.random() < 0.5:
            turns += reading(rng)
    else:
        turns = [x for _ in range(rng.randint(1, 3)) for x in chinese.question(rng)]
    return chat(turns, rng.choice(SYSTEM) if rng.random() < 0.3 else None)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--kind", choices=["story", "dialogue"], default="story")
    args = p.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        print((story if args.kind == "story" else dialogue)(rng))
        print("<|endoftext|>")


if __name__ == "__main__":
    main()
