"""Questions that no table of facts answers: what people ask an assistant, from templates and word lists of our own.

A text model's own replies to them are what its training on short answers must not lose (`lm/prose.py`), and what a
model that hears is taught to write when they are spoken. Two lists test that: "heard" has the words of the training in
sentences of its own, "any" has things, deeds and places of its own too. (Most of these words are still heard elsewhere:
in lists of words, or in questions about them.)
"""

import re

from mossrepro.utils.random import rng

_THINGS = """dog cat horse bird fish tree flower river mountain forest garden house kitchen window door chair table bed
lamp clock phone computer car bus train boat bicycle airplane road bridge school office shop market bank hotel hospital
church museum park beach island desert ocean lake farm field city village book letter newspaper picture song film game
ball toy knife spoon plate cup bottle bag box key coin shirt shoe hat coat ring cheese egg apple orange banana potato
tomato onion soup cake fire storm cloud star stone heart brain hand foot eye ear nose tooth bone dream job exercise
family teacher doctor farmer soldier king queen child baby neighbor""".split()
_DOING = """learn to swim; cook dinner; clean the house; write a letter; save money; plant a tree; ride a horse; fix a
bicycle; make new friends; get up early; find a job; grow tomatoes; bake bread; paint a wall; train a dog; read faster;
sleep better; stay healthy; speak in public; learn a language; play chess; take good pictures; pack a bag; wash a car;
build a fire; catch a fish; draw a face; sing in tune; run a mile; start a small business; prepare for an exam; plan a
party; calm a baby; choose a gift; fold a shirt; tie a knot; boil an egg; make tea"""
_PLACES = """France Germany Italy Spain Japan China India Brazil Canada Mexico Egypt Russia London Paris Rome Tokyo
Berlin Africa Asia Europe Australia America""".split()
_TEMPLATES = """What is a {t}?|Why do people like the {t}?|Tell me about the {t}.|What can you do with a {t}?
How is a {t} made?|Where can I find a {t}?|Describe a {t} in one sentence.|Write a short sentence about a {t}.
What color is a {t}?|Is a {t} dangerous?|Why is the {t} important?|Give me three words about the {t}.|How big is a {t}?
Who needs a {t}?|What is the difference between a {t} and a {u}?|Which is better, a {t} or a {u}?
Tell me a story about a {t} and a {u}.|What does a {t} have to do with a {u}?|I lost my {t}. What should I do?
My friend gave me a {t}. What should I say?|How do I {d}?|What do I need to {d}?|Is it hard to {d}?
Give me one tip to {d}.|Why should I {d}?|How long does it take to {d}?|I want to {d}. Where do I start?
Can you teach me to {d}?|Who can help me {d}?|What is {p} famous for?|What do people eat in {p}?
Should I travel to {p}?|What is the weather like in {p}?|Tell me something about {p}.|How do I get to {p}?
Can I see a {t} in {p}?|What is it like to {d} in {p}?"""
_TEST_THINGS = """tiger rabbit whale butterfly rose tent hammer guitar violin piano candle mirror umbrella pillow pizza
sandwich carrot lemon volcano rainbow planet robot engine rocket library theater airport castle lighthouse nurse painter
sailor lawyer""".split()
_TEST_DOING = """learn the guitar; make a sandwich; stop worrying; remember names; clean a mirror; build a tent; keep a
rabbit happy; write a poem; cross a street safely; make good coffee"""
_TEST_PLACES = "Norway Kenya Peru Vienna Madrid Chicago".split()
_TEST_TEMPLATES = """Can you explain what a {t} is?|What is a {t} used for?|Why would someone want a {t}?
Please tell me how to {d}.|What is the best way to {d}?|What should I see in {p}?|Say something nice about the {t}.
How would you describe {p} to a child?|Do you like the {t}?|What happens if I never {d}?"""


TESTS = ("heard", "any")  # the lists of the tests


def open_questions(count: int, which: str = "train", seed: int = 0) -> list[str]:
    """`count` different questions, in a fixed order, of the training ("train") or of one of TESTS.

    Raises:
        ValueError: the lists do not make so many.
    """
    things, doing, places = (_TEST_THINGS, _TEST_DOING, _TEST_PLACES) if which == "any" else (_THINGS, _DOING, _PLACES)
    doing = [" ".join(one.split()) for one in doing.split(";")]
    templates = re.split(r"[|\n]", _TEMPLATES if which == "train" else _TEST_TEMPLATES)
    random, found = rng(seed, "open questions", "test" if which == "any" else which), {}
    for i in range(50 * count):
        if len(found) == count:
            break
        thing, other = (things[j] for j in random.choice(len(things), 2, replace=False))
        words = {"t": thing, "u": other, "d": doing[random.integers(len(doing))]}
        text = templates[i % len(templates)].format(p=places[random.integers(len(places))], **words)
        found[re.sub(r"\ba (?=[aeio])", "an ", text)] = None
    if len(found) < count:
        raise ValueError(f"the lists make {len(found)} questions, not {count}")
    return list(found)
