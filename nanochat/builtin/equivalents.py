"""Second true answers: words of one meaning, and facts with more than one answer.

They are no wrong options of a question, and a reply that gives one is right.
"""

from __future__ import annotations

_OCEANS = ("in the Arctic", "in Antarctica")

# By relation, for every fact with this answer.
_BY_ANSWER: dict[str, dict[str, tuple[str, ...]]] = {
    "animal-home": {
        "with people": ("on farms", "in cities"), "on farms": ("with people", "in fields", "on land"),
        "in burrows": ("in fields", "in gardens", "in forests", "in grasslands", "on land"),
        "in forests": ("in trees", "in rainforests", "in mountains", "on land"),
        "in grasslands": ("in fields", "on land"), "in rainforests": ("in forests", "in trees", "on land"),
        "in deserts": ("in grasslands", "in mountains", "on land"),
        "in mountains": ("on farms", "in forests", "on land"),
        "in rivers": ("in lakes", "in ponds"), "in lakes": ("in rivers", "in ponds"),
        "in ponds": ("in rivers", "in lakes", "on farms"), "in the Arctic": ("in the ocean", "on land"),
        "in Antarctica": ("in the ocean",), "in trees": ("in forests", "in rainforests", "in cities"),
        "in cities": ("in trees", "in gardens", "on farms", "with people"),
        "in gardens": ("in fields", "in forests", "in trees"), "in fields": ("in gardens", "in grasslands"),
        "in hives": ("in gardens", "in nests", "in trees"), "in nests": ("in gardens", "in forests", "in trees"),
        "in caves": ("in trees", "in forests", "in cities"),
    },
    "animal-food": {
        "grass": ("plants", "leaves", "seeds"), "leaves": ("plants", "grass"), "bamboo": ("plants", "leaves"),
        "plants": ("grass", "leaves", "seeds", "insects"), "nuts": ("seeds", "plants"), "bark": ("plants", "leaves"),
        "seeds": ("plants", "nuts", "insects", "worms", "grass"), "nectar": ("plants",), "aphids": ("insects",),
        "meat": ("mice", "fish", "insects"), "mice": ("meat", "insects"), "worms": ("insects", "plants"),
        "fish": ("meat", "shrimp", "clams", "insects"), "insects": ("worms", "fish", "plants", "nuts"),
        "plankton": ("shrimp",), "shrimp": ("plankton", "plants"), "clams": ("fish", "shrimp"),
    },
    "animal-young": {
        "puppy": ("pup",), "pup": ("cub", "kit", "kitten"), "cub": ("pup", "kit"), "kit": ("kitten", "pup", "bunny"),
        "fawn": ("calf",), "chick": ("hatchling",), "poult": ("chick", "hatchling"),
        "duckling": ("chick", "hatchling"), "gosling": ("chick", "hatchling"), "cygnet": ("chick", "hatchling"),
        "eaglet": ("chick", "hatchling"), "owlet": ("chick", "hatchling"), "squab": ("chick", "hatchling"),
        "eft": ("larva", "tadpole"), "tadpole": ("larva",), "caterpillar": ("larva",), "nymph": ("larva",),
        "hoglet": ("pup",),
    },
    "animal-sound": {
        "barks": ("growls", "howls"), "howls": ("growls", "barks"), "yelps": ("howls", "barks", "screams"),
        "meows": ("purrs", "hisses"), "purrs": ("chirps", "growls", "meows"), "roars": ("growls",),
        "growls": ("roars",), "laughs": ("howls", "barks", "growls"), "clicks": ("squeaks",),
        "sings": ("clicks", "hums"), "chatters": ("squeaks", "barks", "chirps"), "buzzes": ("hums",),
        "honks": ("hisses",), "gobbles": ("clucks",), "screams": ("squawks", "chirps"),
        "squawks": ("screams", "chirps"), "rattles": ("hisses",),
    },
    "currency": {"rial": ("riyal",), "riyal": ("rial",)},
    "opposite": {
        "young": ("new", "modern"), "modern": ("young", "new"), "old": ("ancient",), "ancient": ("old",),
        "same": ("alike",), "alike": ("same",), "different": ("unlike",), "unlike": ("different",),
        "over": ("above",), "above": ("over",), "under": ("below",), "below": ("under",),
        "begin": ("start",), "start": ("begin",), "end": ("stop",), "stop": ("end",),
        "quiet": ("silent",), "silent": ("quiet", "calm"), "loud": ("noisy",), "noisy": ("loud",),
        "stupid": ("foolish",), "foolish": ("stupid",), "wise": ("clever",), "clever": ("wise",),
        "in": ("inside",), "inside": ("in",), "out": ("outside",), "outside": ("out",),
        "right": ("true",), "true": ("right",), "wrong": ("false",), "false": ("wrong",),
        "cruel": ("hostile", "rude"), "hostile": ("cruel", "rude"), "rude": ("cruel", "hostile"),
        "kind": ("friendly", "polite"), "friendly": ("kind", "polite"), "polite": ("kind", "friendly"),
        "none": ("few",), "few": ("none",), "all": ("many",), "many": ("all",),
        "never": ("seldom",), "seldom": ("never",), "always": ("often",), "often": ("always",),
        "increase": ("rise", "expand"), "decrease": ("fall", "shrink"), "expand": ("increase",),
        "shrink": ("decrease",), "rise": ("increase",), "fall": ("sink", "decrease"),
        "success": ("victory",), "victory": ("success",), "failure": ("defeat",), "defeat": ("failure",),
        "minimum": ("least",), "maximum": ("most",), "least": ("less", "minimum"), "most": ("more", "maximum"),
        "less": ("least", "few"), "more": ("most", "many"), "difficult": ("hard", "complicated"),
        "complicated": ("hard", "difficult"), "easy": ("simple",), "simple": ("easy",),
        "up": ("above", "upstairs"), "down": ("below", "downstairs"), "upstairs": ("up",), "downstairs": ("down",),
        "lock": ("closed",), "unlock": ("open",),
    },
}  # fmt: skip

# By relation, for one subject.
_BY_SUBJECT: dict[str, dict[str, tuple[str, ...]]] = {
    "animal-home": {
        "whale": _OCEANS, "seal": _OCEANS, "hedgehog": ("in gardens", "in fields"), "deer": ("in fields",),
        "fox": ("in cities", "in fields", "in burrows"), "owl": ("on farms", "in fields"), "toad": ("in ponds",),
        "crow": ("in fields",), "squirrel": ("in cities", "in gardens"), "tiger": ("in grasslands",),
        "mouse": ("with people", "on farms"), "salamander": ("in ponds", "in rivers"), "lizard": ("in forests",),
        "penguin": ("on land",), "pelican": ("in the ocean",), "hippopotamus": ("on land",),
        "tortoise": ("in deserts", "in grasslands", "in forests"), "ostrich": ("in deserts",), "wasp": ("in hives",),
        "elephant": ("in forests", "in rainforests"), "rhinoceros": ("in forests",), "goat": ("in mountains",),
    },
    "animal-food": {"duck": ("fish", "worms"), "carp": ("worms",), "flamingo": ("insects",), "polar bear": ("plants",)},
    "color": {
        "coffee": ("black",), "soil": ("black", "red"), "chocolate": ("black", "white"), "the night sky": ("blue",),
        "the deep ocean": ("black", "green"), "a violet": ("blue",), "lavender": ("blue",), "an eggplant": ("black",),
        "a rain cloud": ("black", "white"), "ash": ("white", "black"), "a salmon fillet": ("orange", "red"),
        "corn": ("white",), "rice": ("brown",), "a goldfish": ("red", "yellow"), "a pig": ("black", "white", "brown"),
        "a poppy": ("orange",), "the bark of a tree": ("gray", "white"), "the yolk of an egg": ("orange",),
        "a fire truck": ("yellow",), "licorice": ("red",), "a cornflower": ("purple",), "a flamingo": ("orange", "red"),
        "the sky": ("black", "gray"), "cinnamon": ("red",), "ivory": ("yellow",),
        "butter": ("white",), "a lime": ("yellow",), "a walnut": ("black",), "a swan": ("black",), "salt": ("pink",),
        "a cucumber": ("yellow",), "a carrot": ("purple", "yellow", "white"), "a ripe cherry": ("black", "yellow"),
    },
    "continent": {"Kazakhstan": ("Europe",)},
    "language": {
        **dict.fromkeys(("Tanzania", "Rwanda", "Samoa", "Malta", "Botswana", "Kenya"), ("English",)),
        "Senegal": ("French",), "Madagascar": ("French",), "Kazakhstan": ("Russian",),
    },
    "opposite": {
        "hard": ("easy", "simple"), "easy": ("hard",), "soft": ("loud", "rough"), "loud": ("soft",),
        "go": ("arrive", "stop", "enter"), "come": ("leave", "exit"), "arrive": ("go", "exit"),
        "leave": ("come", "enter"), "enter": ("leave", "go"), "exit": ("come", "arrive"), "right": ("left",),
        "morning": ("night",), "night": ("morning",), "past": ("present",), "future": ("present",),
        "present": ("past", "future"), "refuse": ("agree", "allow"), "agree": ("refuse",), "allow": ("refuse",),
        "hide": ("appear",), "disappear": ("show",), "lose": ("find",), "rough": ("soft", "calm"), "sink": ("rise",),
        "short": ("tall", "high"), "big": ("minor",), "light": ("heavy",),
        "wild": ("calm",), "calm": ("wild",), "spend": ("earn",),
    },
}  # fmt: skip


def other_true_answers(relation: str, subject: str, answer: str) -> tuple[str, ...]:
    """The other true answers of a fact."""
    found = (
        *_BY_ANSWER.get(relation, {}).get(answer, ()),
        *_BY_SUBJECT.get(relation, {}).get(subject, ()),
    )
    return tuple(other for other in dict.fromkeys(found) if other not in (subject, answer))
