"""Opposites, the calendar, number words, and the people, places and things of the stories."""

from __future__ import annotations

# Each word occurs in one pair only, so that it has exactly one opposite in this world.
OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"), ("big", "small"), ("long", "short"), ("fast", "slow"), ("old", "young"),
    ("happy", "sad"), ("light", "dark"), ("hard", "soft"), ("wet", "dry"),
    ("full", "empty"), ("open", "closed"), ("high", "low"), ("near", "far"), ("early", "late"),
    ("good", "bad"), ("right", "wrong"), ("up", "down"), ("in", "out"),
    ("on", "off"), ("over", "under"), ("above", "below"), ("inside", "outside"), ("front", "back"),
    ("top", "bottom"), ("first", "last"), ("begin", "end"), ("start", "stop"), ("push", "pull"),
    ("give", "take"), ("buy", "sell"), ("win", "lose"), ("come", "go"),
    ("arrive", "leave"), ("enter", "exit"), ("rise", "fall"), ("laugh", "cry"), ("love", "hate"),
    ("remember", "forget"), ("ask", "answer"), ("teach", "learn"), ("build", "destroy"), ("save", "spend"),
    ("accept", "refuse"), ("allow", "forbid"), ("attack", "defend"), ("borrow", "lend"), ("catch", "throw"),
    ("day", "night"), ("morning", "evening"), ("summer", "winter"), ("north", "south"), ("east", "west"),
    ("always", "never"), ("often", "seldom"), ("all", "none"), ("many", "few"), ("more", "less"),
    ("most", "least"), ("yes", "no"), ("true", "false"), ("same", "different"), ("alike", "unlike"),
    ("rich", "poor"), ("cheap", "expensive"), ("clean", "dirty"), ("strong", "weak"), ("thick", "thin"),
    ("wide", "narrow"), ("deep", "shallow"), ("sharp", "blunt"), ("smooth", "rough"),
    ("loud", "quiet"), ("noisy", "silent"), ("sweet", "bitter"), ("fresh", "stale"), ("raw", "cooked"),
    ("brave", "cowardly"), ("kind", "cruel"), ("polite", "rude"), ("honest", "dishonest"), ("wise", "foolish"),
    ("clever", "stupid"), ("lazy", "hardworking"), ("careful", "careless"), ("patient", "impatient"),
    ("calm", "nervous"), ("proud", "ashamed"), ("generous", "stingy"), ("friendly", "hostile"),
    ("safe", "dangerous"), ("easy", "difficult"), ("simple", "complicated"), ("possible", "impossible"),
    ("public", "private"), ("ancient", "modern"), ("alive", "dead"), ("awake", "asleep"),
    ("present", "absent"), ("visible", "invisible"), ("known", "unknown"), ("guilty", "innocent"),
    ("war", "peace"), ("friend", "enemy"), ("success", "failure"), ("victory", "defeat"), 
    ("past", "future"), ("birth", "death"), ("heaven", "hell"),
    ("increase", "decrease"), ("expand", "shrink"), ("maximum", "minimum"), ("positive", "negative"),
    ("export", "import"), ("major", "minor"), ("vertical", "horizontal"), ("solid", "liquid"),
    ("black", "white"), ("tight", "loose"), ("straight", "curved"), ("forward", "backward"),
    ("upstairs", "downstairs"), ("exciting", "boring"), ("beautiful", "ugly"), ("tame", "wild"),
    ("healthy", "sick"), ("lucky", "unlucky"), ("legal", "illegal"), ("agree", "disagree"),
    ("appear", "disappear"), ("include", "exclude"), ("freeze", "melt"), ("float", "sink"),
    ("hide", "show"), ("whisper", "shout"), ("praise", "blame"), ("lock", "unlock"), ("before", "after"),
    ("with", "without"),
)  # fmt: skip

DAYS: tuple[str, ...] = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip

# (name, days in a common year, season in the northern hemisphere)
MONTHS: tuple[tuple[str, int, str], ...] = (
    ("January", 31, "winter"), ("February", 28, "winter"), ("March", 31, "spring"),
    ("April", 30, "spring"), ("May", 31, "spring"), ("June", 30, "summer"),
    ("July", 31, "summer"), ("August", 31, "summer"), ("September", 30, "autumn"),
    ("October", 31, "autumn"), ("November", 30, "autumn"), ("December", 31, "winter"),
)  # fmt: skip

ORDINALS: tuple[str, ...] = (
    "first", "second", "third", "fourth", "fifth", "sixth",
    "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
)  # fmt: skip

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number_word(n: int) -> str:
    """A whole number from 0 to 100 in English words."""
    if n == 100:
        return "one hundred"
    if n < 20:
        return _UNITS[n]
    return _TENS[n // 10] + (f"-{_UNITS[n % 10]}" if n % 10 else "")


def with_article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# (name, pronoun, possessive)
PEOPLE: tuple[tuple[str, str, str], ...] = tuple(
    [(name, "she", "her") for name in (
        "Anna", "Mia", "Lucy", "Sara", "Emma", "Nina", "Rosa", "Clara", "Lena", "Maya", "Ella", "Julia",
        "Nora", "Ruth", "Alice", "Grace", "Hannah", "Ida", "Kate", "Zoe",
    )] + [(name, "he", "his") for name in (
        "Tom", "Ben", "Max", "Leo", "Sam", "Paul", "David", "Omar", "Jack", "Felix", "Oscar", "Hugo",
        "Peter", "Adam", "Noah", "Ivan", "Karl", "Luis", "Simon", "Will",
    )]
)  # fmt: skip

THINGS: tuple[str, ...] = (
    "apples", "books", "ribbons", "stamps", "shells", "marbles", "cards", "nuts", "eggs", "stones", "flowers",
    "pencils", "candles", "buttons", "cookies", "pears",
)  # fmt: skip
