"""Short stories: one hero, one place, a cause and its consequence.

A plot is a sequence of beats. Each beat is a choice of sentences with the same meaning, so that the slots
(people, place, things) stay consistent through the story.
"""

from __future__ import annotations

from random import Random

from nanochat.builtin.everyday import DAYS, MONTHS, PEOPLE, THINGS, number_word, with_article

_PLACES = (("in", "the village"), ("in", "the old town"), ("in", "the valley"), ("at", "the little harbor"),
           ("in", "the forest"), ("on", "the farm"), ("at", "the school"), ("at", "the market"), ("by", "the river"),
           ("on", "the mountain"), ("in", "the garden"), ("on", "the beach"))  # fmt: skip
_COLORS = ("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "purple", "gray")
_PETS = ("dog", "cat", "rabbit", "hen", "goat", "duck", "horse", "mouse")
_OBJECTS = ("hat", "book", "kite", "lamp", "basket", "coat", "ball", "cup", "drum", "key", "box", "scarf")
_FOODS = ("bread", "soup", "rice", "cheese", "fish", "cake", "pie", "pasta", "honey", "corn")

Beat = tuple[str, ...]

_OPENINGS: Beat = (
    "{name} lived near {place}.",
    "Once there was a child called {name} who lived near {place}.",
    "One {day}, {name} walked to {place}.",
    "It was a quiet {day} in {month}, and {name} was {at_place}.",
    "Early in {month}, {name} went to {place} with {poss} friend {friend}.",
    "This is a story about {name} and {friend}, who met {at_place}.",
)

_PLOTS: tuple[tuple[Beat, ...], ...] = (
    (
        ("{name} had {a_color} {object}.", "{name} owned {a_color} {object} and loved it.",
         "{poss_} favorite thing was {a_color} {object}."),
        ("One morning the {object} was gone.", "But that day {pron} could not find the {object}.",
         "Then the {object} was lost."),
        ("{name} was sad, because it was a gift from {friend}.",
         "{pron_} was sad, for {friend} had given it to {obj}."),
        ("{friend} helped to look for it.", "{friend} came and looked everywhere with {obj}."),
        ("They found the {color} {object} under a tree.", "The {object} lay behind a stone, and it was still {color}.",
         "At last {friend} saw something {color} in the grass. It was the {object}."),
        ("{name} was happy and thanked {friend}.", "So {name} laughed and thanked {friend}."),
    ),
    (
        ("It rained the whole day, and the path was wet.", "The rain did not stop, so the ground was wet."),
        ("{name} slipped and dropped {poss} {food}.", "Because the path was wet, {name} fell and lost {poss} {food}."),
        ("{pron_} was hungry now.", "Now there was nothing to eat, and {pron} was hungry."),
        ("{friend} saw it and shared {friend_poss} {food2}.", "{friend} gave {obj} half of {friend_poss} {food2}."),
        ("They sat down and ate the {food2} together.", "Together they ate the {food2}, and it was good."),
        ("The next day {name} brought {food} for {friend}.",
         "Later {name} gave {friend} some {food} to say thank you."),
    ),
    (
        ("{name} found a small {color} {pet}.", "By the road stood {a_color} {pet}."),
        ("The {pet} was cold and had no home.", "Nobody knew where the {pet} came from."),
        ("So {name} took the {pet} home and gave it {food}.", "{name} brought it home and fed it {food}."),
        ("{friend} asked what the {pet} was called.", "\"What is its name?\" asked {friend}."),
        ("{name} called the {pet} {petname}.", "\"Its name is {petname},\" said {name}."),
        ("From that day on, {petname} followed {name} everywhere.",
         "{petname} the {pet} stayed with {name} for many years."),
    ),
    (
        ("{name} wanted to buy {things} at the market.", "{name} needed {count} {things}."),
        ("{pron_} had {count} coins, and each of the {things} cost one coin.",
         "All of the {things} cost one coin each, and {pron} had {count} coins."),
        ("So {pron} could buy {count} of them.", "That was enough for {count} {things}."),
        ("On the way home {pron} met {friend}, who had none.", "{friend} came by and had no {things} at all."),
        ("{name} gave {friend} one and kept the rest.", "{pron_} gave one to {friend} and kept the others."),
        ("{friend} smiled and said thank you.", "Both of them were glad."),
    ),
    (
        ("{friend} was ill and had to stay in bed.", "{friend} had a fever and could not go out."),
        ("{name} cooked {food} because warm food helps.", "So {name} made some {food} for {friend}."),
        ("{pron_} also brought {a_color} {object}.", "With the {food} came {a_color} {object} as a present."),
        ("{friend} ate the {food} and slept.", "After the meal {friend} slept for a long time."),
        ("After {count} days {friend} was well again.", "{count_} days later {friend} could get up."),
        ("Then the two friends went back to {place}.", "Soon they played {at_place} again."),
    ),
    (
        ("{name} wanted to cross the water, but the bridge was broken.",
         "A storm had broken the bridge, and {name} could not cross."),
        ("{friend} had strong rope and some wood.", "{friend} knew where to find rope and wood."),
        ("They worked for {count} hours.", "It took them {count} hours of hard work."),
        ("When they were done, the bridge was strong again.", "In the evening the new bridge was ready."),
        ("{name} crossed first, and then {friend} followed.", "{name} went over it first, because {pron} was brave."),
        ("Everyone {at_place} thanked them.", "Everyone {at_place} was glad about the bridge."),
    ),
    (
        ("{name} planted a seed in the ground.", "In spring {name} put a small seed into the soil."),
        ("Every day {pron} gave it water.", "{pron_} watered it each morning."),
        ("{friend} did not believe that it would grow.", "\"Nothing will grow here,\" said {friend}."),
        ("After {count} weeks there was a small plant.", "But {count} weeks later a green leaf came up."),
        ("In summer it had {color} flowers.", "By summer its flowers were {color}."),
        ("{friend} was surprised and asked for a seed too.", "{friend} said sorry and helped to water it."),
    ),
    (
        ("In the evening {name} heard a noise outside.", "At night there was a strange noise."),
        ("{pron_} was afraid and called {friend}.", "Because {pron} was afraid, {pron} woke {friend}."),
        ("They took a lamp and looked behind the door.", "With a lamp in the hand they opened the door."),
        ("It was only a {pet} that wanted {food}.", "There sat {a_color} {pet}, and it was hungry."),
        ("They laughed and gave it some {food}.", "So they gave the {pet} {food} and laughed."),
        ("After that, {name} was not afraid any more.", "Then they all went to sleep."),
    ),
    (
        ("There was a race {at_place} on {day}.", "On {day} all the children ran a race."),
        ("{name} was fast, but {friend} was faster.", "{friend} ran faster than {name}."),
        ("Near the end {friend} fell and hurt a knee.", "Then {friend} fell, because a stone lay in the way."),
        ("{name} stopped and helped {friend} up.", "{name} did not run on. {pron_} stopped to help."),
        ("So another child won the race.", "They came last, hand in hand."),
        ("But {friend} said that {name} was the best friend of all.",
         "The teacher gave {name} {a_color} {object} for being kind."),
    ),
    (
        ("{name} wrote a letter to {friend}.", "{friend} lived far away, so {name} wrote a letter."),
        ("In the letter {pron} told about {poss} {color} {object}.", "It told of {a_color} {object} and a {pet}."),
        ("The letter was on its way for {count} days.", "After {count} days the letter arrived."),
        ("{friend} read it twice and wrote back.", "{friend} was glad and answered at once."),
        ("\"Come and visit me in {month2},\" said the answer.", "The answer said that they would meet in {month2}."),
        ("So in {month2} the friends met {at_place}.", "In {month2} they saw each other again."),
    ),
)  # fmt: skip

_ENDINGS: Beat = (
    "", "", "It was a good day.", "They never forgot that day.", "And that is the end of the story.",
    "That evening {name} slept well.", "{name} told the story at home.",
    "Since then {name} and {friend} are good friends.",
)  # fmt: skip


def story(rng: Random, *, beats: int | None = None) -> str:
    """A story of six to eight sentences, or of its first `beats` beats."""
    name, pron, poss = rng.choice(PEOPLE)
    friend, _, friend_poss = rng.choice([person for person in PEOPLE if person[0] != name])
    food, food2 = rng.sample(_FOODS, 2)
    month, month2 = rng.sample([month for month, _, _ in MONTHS], 2)
    count = rng.randint(2, 12)
    (preposition, place), color = rng.choice(_PLACES), rng.choice(_COLORS)
    slots = {
        "name": name, "pron": pron, "pron_": pron.capitalize(), "poss": poss, "poss_": poss.capitalize(),
        "obj": "her" if pron == "she" else "him", "friend": friend, "friend_poss": friend_poss,
        "place": place, "at_place": f"{preposition} {place}", "color": color, "a_color": with_article(color),
        "object": rng.choice(_OBJECTS),
        "pet": rng.choice(_PETS), "petname": rng.choice(("Pip", "Rex", "Luna", "Coco", "Spot", "Bibi")),
        "food": food, "food2": food2, "month": month, "month2": month2, "day": rng.choice(DAYS),
        "things": rng.choice(THINGS), "count": number_word(count), "count_": number_word(count).capitalize(),
    }  # fmt: skip
    plot = (_OPENINGS, *rng.choice(_PLOTS), _ENDINGS)
    sentences = (rng.choice(beat).format(**slots) for beat in plot[:beats])
    return " ".join(sentence for sentence in sentences if sentence)
