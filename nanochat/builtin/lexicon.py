"""Common English words for spelling and letter counting; the documents teach each of them."""

from __future__ import annotations

_TEXT = """
able about above accident across action address advice afraid afternoon again agree airport album almost
alone along already always amazing anchor angel animal ankle answer apple arrow artist asleep attic
autumn average awake baby bacon badge baker balance ballet balloon banana bandage banjo barber bargain
barrel basket battle beach beard beautiful because bedroom before began begin behind believe belong bench
berry better between bicycle bird biscuit blanket blossom board bottle bottom bowl bracelet branch brave
bread breakfast breath brick bridge bright broken brother brown brush bubble bucket build bullet butter
button cabbage cabin cactus camera candle candy canvas captain carpet carrot castle catch cattle ceiling
celery center cereal chain chair chalk champion chance change cheese cherry chicken child chimney chocolate
choose church cinema circle circus city classroom clean clever climb clock cloth cloud clown coast coconut
coffee collar college color comfort common compass computer concert cookie copper corner cotton couch
country courage cousin cradle cream creature cricket crowd crown curtain cushion customer dance danger
daughter daylight dentist desert dessert diamond dinner dirty distance doctor dollar donkey double dragon
drawer dream dress drink driver dungeon eager early earth easily eastern edge effort eight elbow electric
elephant eleven empty energy engine enjoy enough envelope equal escape evening every exactly example
excellent exercise explain fabric factory family famous farmer father feather fellow fence festival fever
field fifteen fifty finger finish fireplace flag flavor floor flower follow forest forever forget forgive
fork forty fountain freedom friend frozen fruit funny furniture future galaxy gallery garage garden garlic
gather gentle giant ginger giraffe glass glove golden goodbye grammar grandmother grape grass gravity green
grocery ground guess guitar hallway hammer handle happen happy harbor harvest healthy heart heaven heavy
helmet helper hidden highway history hobby holiday honest honey horizon hospital hotel house hundred hungry
hunter hurry husband iceberg idea important include insect inside island jacket jelly jewel journey
judge juice jungle kangaroo kettle kingdom kitchen kitten knife knight knock ladder language lantern
laughter laundry leather lemon lesson letter lettuce library lightning listen little lizard lobster lonely
lucky luggage lunch machine magazine magic magnet manager marble market marriage master matter meadow
measure medicine melody member memory message metal middle midnight million minute mirror mistake mitten
moment money monkey monster month morning mosquito mother motor mountain muscle museum mushroom
music mystery narrow nation natural nature necklace needle neighbor nephew never newspaper night ninety
noise noodle normal northern notebook nothing notice number object ocean office onion open opinion
orange orbit orchard orchestra ordinary outside oven oyster package paddle painter palace pancake paper
parade parent parrot party passage patient peaceful peanut pebble pencil people pepper perfect person
photograph piano picnic picture pillow pilot pineapple pirate planet plastic plate playground pleasure
pocket poem police polite popcorn possible potato powder practice prepare present pretty prince princess
prison prize problem project promise protect proud pudding pumpkin puppet puppy purple puzzle pyramid
quality quarter queen question quick quiet rabbit raccoon railway rainbow raspberry ready reason recipe
record remember repair reply rescue respect restaurant ribbon riddle river robin rocket rubber sailor salad
salmon sandwich sausage scarf school science scissors seashell season second secret sentence
seven shadow shelter shepherd shoulder shower silence silver simple singer sister sixteen
skeleton sleepy slipper slowly smooth snow soccer soldier someone sparkle special spider spinach spoon
spring square squirrel stadium station stomach stone storm story stranger strawberry street strong student
sudden sugar suitcase summer sunflower supper surprise sweater swimming table tailor teacher
telephone temple tennis theater thirteen thousand thread throat thunder ticket tiger tomato tomorrow
tooth tower traffic train treasure triangle trouble trumpet tunnel turtle twelve twenty umbrella
uncle uniform until upstairs useful vacation valley vanilla vegetable velvet village violin visitor voice
volcano wagon wallet walnut water weather wedding welcome whale wheat whisper whistle window winter wisdom
without woman wonder wooden worker world wrestle yellow yesterday yogurt young zebra zipper
"""

WORDS: tuple[str, ...] = tuple(_TEXT.split())
