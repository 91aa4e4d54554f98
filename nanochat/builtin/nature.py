"""Chemical elements, planets, animals and the colors of things."""

from __future__ import annotations

from typing import NamedTuple


class Element(NamedTuple):
    """A chemical element with its symbol and atomic number."""

    name: str
    symbol: str
    number: int


class Animal(NamedTuple):
    """An animal; `young` and `sound` are empty if English has no common word for them."""

    name: str
    plural: str
    group: str
    home: str
    food: str
    young: str = ""
    sound: str = ""


ELEMENTS: tuple[Element, ...] = tuple(
    Element(*row)
    for row in (
        ("hydrogen", "H", 1), ("helium", "He", 2), ("lithium", "Li", 3), ("beryllium", "Be", 4),
        ("boron", "B", 5), ("carbon", "C", 6), ("nitrogen", "N", 7), ("oxygen", "O", 8),
        ("fluorine", "F", 9), ("neon", "Ne", 10), ("sodium", "Na", 11), ("magnesium", "Mg", 12),
        ("aluminum", "Al", 13), ("silicon", "Si", 14), ("phosphorus", "P", 15), ("sulfur", "S", 16),
        ("chlorine", "Cl", 17), ("argon", "Ar", 18), ("potassium", "K", 19), ("calcium", "Ca", 20),
        ("scandium", "Sc", 21), ("titanium", "Ti", 22), ("vanadium", "V", 23), ("chromium", "Cr", 24),
        ("manganese", "Mn", 25), ("iron", "Fe", 26), ("cobalt", "Co", 27), ("nickel", "Ni", 28),
        ("copper", "Cu", 29), ("zinc", "Zn", 30), ("gallium", "Ga", 31), ("germanium", "Ge", 32),
        ("arsenic", "As", 33), ("selenium", "Se", 34), ("bromine", "Br", 35), ("krypton", "Kr", 36),
        ("rubidium", "Rb", 37), ("strontium", "Sr", 38), ("zirconium", "Zr", 40), ("molybdenum", "Mo", 42),
        ("ruthenium", "Ru", 44), ("rhodium", "Rh", 45), ("palladium", "Pd", 46), ("silver", "Ag", 47),
        ("cadmium", "Cd", 48), ("indium", "In", 49), ("tin", "Sn", 50), ("antimony", "Sb", 51),
        ("xenon", "Xe", 54), ("cesium", "Cs", 55), ("barium", "Ba", 56),
        ("tungsten", "W", 74), ("osmium", "Os", 76), ("iridium", "Ir", 77), ("platinum", "Pt", 78),
        ("gold", "Au", 79), ("mercury", "Hg", 80), ("lead", "Pb", 82), ("bismuth", "Bi", 83),
        ("radon", "Rn", 86), ("radium", "Ra", 88), ("uranium", "U", 92), ("plutonium", "Pu", 94),
    )
)  # fmt: skip

PLANETS: tuple[str, ...] = (
    "Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune",
)  # fmt: skip

PLANET_TITLES: tuple[tuple[str, str], ...] = (
    ("the largest planet", "Jupiter"),
    ("the biggest planet", "Jupiter"),
    ("the smallest planet", "Mercury"),
    ("the hottest planet", "Venus"),
    ("the red planet", "Mars"),
    ("the planet with the brightest rings", "Saturn"),
    ("the planet on which we live", "Earth"),
    ("the planet nearest to the Sun", "Mercury"),
    ("the closest planet to the Sun", "Mercury"),
    ("the planet farthest from the Sun", "Neptune"),
    ("the planet that lies on its side", "Uranus"),
    ("the planet with the Great Red Spot", "Jupiter"),
    ("the brightest planet in our night sky", "Venus"),
    ("the only planet known to have life", "Earth"),
)

PLANET_TRAITS: tuple[tuple[str, str], ...] = (
    ("closest to the Sun", "Mercury"),
    ("nearest to the Sun", "Mercury"),
    ("farthest from the Sun", "Neptune"),
    ("the largest", "Jupiter"),
    ("the biggest", "Jupiter"),
    ("the smallest", "Mercury"),
    ("the hottest", "Venus"),
    ("known for its rings", "Saturn"),
    ("known as the red planet", "Mars"),
    ("our home", "Earth"),
)

ANIMALS: tuple[Animal, ...] = tuple(
    Animal(*row)
    for row in (
        ("dog", "dogs", "mammal", "with people", "meat", "puppy", "barks"),
        ("cat", "cats", "mammal", "with people", "meat", "kitten", "meows"),
        ("cow", "cows", "mammal", "on farms", "grass", "calf", "moos"),
        ("horse", "horses", "mammal", "on farms", "grass", "foal", "neighs"),
        ("sheep", "sheep", "mammal", "on farms", "grass", "lamb", "bleats"),
        ("goat", "goats", "mammal", "on farms", "grass", "kid", "bleats"),
        ("donkey", "donkeys", "mammal", "on farms", "grass", "foal", "brays"),
        ("rabbit", "rabbits", "mammal", "in burrows", "grass", "kit"),
        ("mouse", "mice", "mammal", "in burrows", "seeds", "pup", "squeaks"),
        ("mole", "moles", "mammal", "in burrows", "worms", "pup"),
        ("badger", "badgers", "mammal", "in burrows", "worms", "cub"),
        ("fox", "foxes", "mammal", "in forests", "meat", "cub", "yelps"),
        ("wolf", "wolves", "mammal", "in forests", "meat", "pup", "howls"),
        ("deer", "deer", "mammal", "in forests", "leaves", "fawn"),
        ("squirrel", "squirrels", "mammal", "in forests", "nuts", "kit", "chatters"),
        ("hedgehog", "hedgehogs", "mammal", "in forests", "insects", "hoglet"),
        ("koala", "koalas", "mammal", "in forests", "leaves", "joey"),
        ("panda", "pandas", "mammal", "in forests", "bamboo", "cub"),
        ("lion", "lions", "mammal", "in grasslands", "meat", "cub", "roars"),
        ("zebra", "zebras", "mammal", "in grasslands", "grass", "foal"),
        ("giraffe", "giraffes", "mammal", "in grasslands", "leaves", "calf"),
        ("elephant", "elephants", "mammal", "in grasslands", "plants", "calf", "trumpets"),
        ("rhinoceros", "rhinoceroses", "mammal", "in grasslands", "plants", "calf"),
        ("kangaroo", "kangaroos", "mammal", "in grasslands", "grass", "joey"),
        ("hyena", "hyenas", "mammal", "in grasslands", "meat", "cub", "laughs"),
        ("cheetah", "cheetahs", "mammal", "in grasslands", "meat", "cub", "purrs"),
        ("tiger", "tigers", "mammal", "in forests", "meat", "cub", "roars"),
        ("gorilla", "gorillas", "mammal", "in rainforests", "plants"),
        ("sloth", "sloths", "mammal", "in rainforests", "leaves"),
        ("jaguar", "jaguars", "mammal", "in rainforests", "meat", "cub", "roars"),
        ("camel", "camels", "mammal", "in deserts", "plants", "calf"),
        ("yak", "yaks", "mammal", "in mountains", "grass", "calf", "grunts"),
        ("llama", "llamas", "mammal", "in mountains", "grass", "cria", "hums"),
        ("hippopotamus", "hippopotamuses", "mammal", "in rivers", "grass", "calf"),
        ("otter", "otters", "mammal", "in rivers", "fish", "pup"),
        ("beaver", "beavers", "mammal", "in rivers", "bark", "kit"),
        ("bat", "bats", "mammal", "in caves", "insects", "pup"),
        ("whale", "whales", "mammal", "in the ocean", "", "calf", "sings"),
        ("dolphin", "dolphins", "mammal", "in the ocean", "fish", "calf", "clicks"),
        ("seal", "seals", "mammal", "in the ocean", "fish", "pup", "barks"),
        ("walrus", "walruses", "mammal", "in the Arctic", "clams", "calf"),
        ("reindeer", "reindeer", "mammal", "in the Arctic", "plants", "calf"),
        ("polar bear", "polar bears", "mammal", "in the Arctic", "meat", "cub", "growls"),
        ("hen", "hens", "bird", "on farms", "seeds", "chick", "clucks"),
        ("turkey", "turkeys", "bird", "on farms", "seeds", "poult", "gobbles"),
        ("duck", "ducks", "bird", "in ponds", "plants", "duckling", "quacks"),
        ("goose", "geese", "bird", "in ponds", "grass", "gosling", "honks"),
        ("swan", "swans", "bird", "in lakes", "plants", "cygnet"),
        ("eagle", "eagles", "bird", "in mountains", "meat", "eaglet", "screams"),
        ("owl", "owls", "bird", "in forests", "mice", "owlet", "hoots"),
        ("woodpecker", "woodpeckers", "bird", "in forests", "insects", "chick", "drums"),
        ("crow", "crows", "bird", "in trees", "", "chick", "caws"),
        ("pigeon", "pigeons", "bird", "in cities", "seeds", "squab", "coos"),
        ("sparrow", "sparrows", "bird", "in cities", "seeds", "chick", "chirps"),
        ("parrot", "parrots", "bird", "in rainforests", "seeds", "chick", "squawks"),
        ("penguin", "penguins", "bird", "in Antarctica", "fish", "chick"),
        ("ostrich", "ostriches", "bird", "in grasslands", "plants", "chick"),
        ("pelican", "pelicans", "bird", "in lakes", "fish", "chick"),
        ("flamingo", "flamingos", "bird", "in lakes", "shrimp", "chick"),
        ("shark", "sharks", "fish", "in the ocean", "fish", "pup"),
        ("tuna", "tuna", "fish", "in the ocean", "fish"),
        ("herring", "herring", "fish", "in the ocean", "plankton"),
        ("seahorse", "seahorses", "fish", "in the ocean", "plankton"),
        ("trout", "trout", "fish", "in rivers", "insects"),
        ("carp", "carp", "fish", "in ponds", "plants"),
        ("pike", "pike", "fish", "in lakes", "fish"),
        ("frog", "frogs", "amphibian", "in ponds", "insects", "tadpole", "croaks"),
        ("toad", "toads", "amphibian", "in gardens", "insects", "tadpole", "croaks"),
        ("newt", "newts", "amphibian", "in ponds", "insects", "eft"),
        ("salamander", "salamanders", "amphibian", "in forests", "insects"),
        ("crocodile", "crocodiles", "reptile", "in rivers", "meat", "hatchling"),
        ("lizard", "lizards", "reptile", "in deserts", "insects", "hatchling"),
        ("rattlesnake", "rattlesnakes", "reptile", "in deserts", "mice", "", "rattles"),
        ("cobra", "cobras", "reptile", "", "", "hatchling", "hisses"),
        ("tortoise", "tortoises", "reptile", "on land", "plants", "hatchling"),
        ("chameleon", "chameleons", "reptile", "in trees", "insects", "hatchling"),
        ("bee", "bees", "insect", "in hives", "nectar", "larva", "buzzes"),
        ("ant", "ants", "insect", "in nests", "", "larva"),
        ("wasp", "wasps", "insect", "in nests", "", "larva", "buzzes"),
        ("butterfly", "butterflies", "insect", "in gardens", "nectar", "caterpillar"),
        ("moth", "moths", "insect", "in gardens", "nectar", "caterpillar"),
        ("ladybug", "ladybugs", "insect", "in gardens", "aphids", "larva"),
        ("dragonfly", "dragonflies", "insect", "in ponds", "insects", "nymph"),
        ("cricket", "crickets", "insect", "in fields", "plants", "nymph", "chirps"),
        ("grasshopper", "grasshoppers", "insect", "in fields", "grass", "nymph"),
        ("locust", "locusts", "insect", "in fields", "plants", "nymph"),
    )
)

COLORS: tuple[tuple[str, str], ...] = (
    ("grass", "green"), ("a leaf in spring", "green"), ("a cucumber", "green"), ("spinach", "green"),
    ("an emerald", "green"), ("a lime", "green"), ("broccoli", "green"),
    ("the sky", "blue"), ("the clear sky at noon", "blue"), ("a sapphire", "blue"), ("the deep ocean", "blue"),
    ("a blueberry", "blue"), ("a cornflower", "blue"),
    ("snow", "white"), ("milk", "white"), ("salt", "white"), ("flour", "white"), ("a polar bear", "white"),
    ("a swan", "white"), ("ivory", "white"), ("chalk", "white"), ("rice", "white"),
    ("coal", "black"), ("a raven", "black"), ("soot", "black"), ("tar", "black"),
    ("the night sky", "black"), ("licorice", "black"), ("a crow", "black"),
    ("blood", "red"), ("a ripe tomato", "red"), ("a ripe strawberry", "red"), ("a ruby", "red"),
    ("a fire truck", "red"), ("a ripe cherry", "red"), ("a stop sign", "red"), ("a poppy", "red"),
    ("a ripe banana", "yellow"), ("a lemon", "yellow"), ("a sunflower", "yellow"), ("butter", "yellow"),
    ("the yolk of an egg", "yellow"), ("a canary", "yellow"), ("corn", "yellow"), ("a dandelion", "yellow"),
    ("a carrot", "orange"), ("a pumpkin", "orange"), ("a tangerine", "orange"), ("a goldfish", "orange"),
    ("chocolate", "brown"), ("soil", "brown"), ("coffee", "brown"), ("the bark of a tree", "brown"),
    ("a walnut", "brown"), ("cinnamon", "brown"),
    ("a flamingo", "pink"), ("a pig", "pink"), ("a salmon fillet", "pink"),
    ("an eggplant", "purple"), ("lavender", "purple"), ("a violet", "purple"), ("an amethyst", "purple"),
    ("an elephant", "gray"), ("a rain cloud", "gray"), ("ash", "gray"), ("a dolphin", "gray"),
)  # fmt: skip
