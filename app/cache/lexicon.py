"""Closed word classes that the guards and the pair features look words up in.

They are lists, not models, because each entry can be read, argued about and corrected by the
person who found a wrong hit. Everything here is lower case; the lists are English, as the
default encoder is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final


def words(text: str) -> frozenset[str]:
    """The set of the words of a text; how every list here is written."""
    return frozenset(text.split())


NEGATIONS: Final = words(
    "not no never none nobody nothing neither nor without cannot cant dont doesnt didnt isnt arent "
    "wasnt werent wont wouldnt shouldnt couldnt hasnt havent hadnt aint unable can't don't doesn't "
    "didn't isn't aren't wasn't weren't won't wouldn't shouldn't couldn't hasn't haven't hadn't "
    "ain't n't no-one except unless hardly barely scarcely rarely seldom lack lacks lacking excluding "
    "exclude excludes fail fails failed refuse refuses refused"
)

STOP_WORDS: Final = words(
    "a an the of in on at to for from by with and or is are was were be been being am do does did "
    "i me my mine we us our you your it its he him his she her they them their this that these "
    "those there here what which who whom whose when where why how can could would will shall "
    "should may might must have has had please tell show give list find get need want like just "
    "about as if so than then too also any some all"
)

# Words that change nothing in what is asked for: their presence on one side is no evidence.
FILLERS: Final = words(
    "please kindly hey hi hello ok okay thanks thank actually really basically just simply indeed "
    "truly literally currently well so um uh now fact definitely certainly honestly seriously "
    "possibly maybe perhaps kinda sorta somehow"
)

# Words that a request opens with before it says what it wants.
COURTESIES: Final = words("please kindly hey hi hello ok okay so well tell me just")

# Each line: words of one side | words of the other. Symmetric.
_OPPOSITES: Final = """
more | less fewer
most | least fewest
before | after
earlier sooner | later
earliest first | latest last
on | off
open opened opening | close closed closing shut
up | down
in | out
near close | far
into | from
to | from
start starts started starting begin | stop stops stopped stopping end
start starts started starting begin | ends ended quit disable disabled
start starts started starting begin | pause
begins began enable enabled resume | stop stops stopped stopping end
begins began enable enabled resume | ends ended quit disable disabled
begins began enable enabled resume | pause
increase increases increased increasing raise | decrease decreases decreased decreasing reduce
increase increases increased increasing raise | reduces reduced lower lowers lowered
increase increases increased increasing raise | remove removes removed removing delete
increase increases increased increasing raise | lose loses subtract
raises raised add adds added | decrease decreases decreased decreasing reduce
raises raised add adds added | reduces reduced lower lowers lowered
raises raised add adds added | remove removes removed removing delete
raises raised add adds added | lose loses subtract
adding gain gains | decrease decreases decreased decreasing reduce
adding gain gains | reduces reduced lower lowers lowered
adding gain gains | remove removes removed removing delete
adding gain gains | lose loses subtract
high higher highest | low lower lowest
big bigger biggest large larger largest huge giant enormous | small smaller smallest little tiny
long longer longest | short shorter shortest
tall taller tallest | short shorter shortest
many | few
maximum max | minimum min
over above exceeding | under below beneath
hot hotter hottest warm | cold colder coldest cool
fast faster fastest quick quicker quickest | slow slower slowest
old older oldest | new newer newest young younger youngest
rich richer richest wealthy | poor poorer poorest
good better best great | bad worse worst terrible awful
right correct | wrong incorrect
left | right
true | false
cheap cheaper cheapest inexpensive | expensive costly pricey dearest
easy easier easiest simple | hard harder hardest difficult
early | late
buy buys bought buying purchase | sell sells sold selling
win wins won | lose loses lost
hit hits hitting | miss misses missing missed
rise rises rising climb climbs climbing ascend | fall falls falling descend descends descending
sit sits sitting | stand stands standing
asleep sleeping | awake
onto | off
into | out
put puts putting apply applies applying | remove removes removing removed
clean cleans cleaning | dirty dirties dirtying
hold holds holding | drop drops dropping
stop stops stopping | run runs running go goes going
top | bottom
front | back rear
first | last
toward towards at | away
love loves loved like likes liked | hate hates hated dislike dislikes
accept accepts accepted approve approves | reject rejects rejected deny denies
accept accepts accepted approve approves | denied forbid forbidden ban refuse
allow allows allowed permit | reject rejects rejected deny denies
allow allows allowed permit | denied forbid forbidden ban refuse
push pushes | pull pulls
send sends sent sending | receive receives received receiving
lend lends | borrow borrows
teach teaches | learn learns
import imports importing | export exports exporting
upload uploads | download downloads
encrypt | decrypt
encode | decode
install installs | uninstall uninstalls
lock locks | unlock unlocks
mute | unmute
connect connects | disconnect disconnects
arrive arrives arriving arrival arrivals | depart departs departing departure departures
arrive arrives arriving arrival arrivals | leave leaves leaving
land lands landing | depart departs departing departure departures
land lands landing | leave leaves leaving
deposit deposits | withdraw withdraws withdrawal
credit credits | debit debits
always | never
all every everyone everybody everything | none nobody nothing
with | without
inside indoor indoors | outside outdoor outdoors
north northern | south southern
east eastern | west western
morning am | evening night pm
day daytime | night nighttime
today | tomorrow yesterday tonight
tomorrow | yesterday
domestic local | international foreign
public | private
legal | illegal
safe | unsafe dangerous
healthy | unhealthy
possible | impossible
happy happier | sad unhappy sadder
strong stronger strongest | weak weaker weakest
optimistic | pessimistic
positive | negative
hopeful | hopeless
careful | careless
useful | useless
patient | impatient
polite | impolite rude
honest | dishonest
active | passive inactive
visible | invisible
religious | secular atheist
conservative | liberal progressive
introverted | extroverted
specific | vague general
humble modest | arrogant proud
smart intelligent clever | stupid dumb
brave | cowardly
generous | stingy selfish
organized organised | disorganized disorganised messy
male man men boy boys | female woman women girl girls
father dad husband brother son | mother mum mom wife sister daughter
single | married
alive | dead
empty | full
wet | dry
clean | dirty
light lighter | dark darker heavy heavier
increase | decrease
profit profits | loss losses
success succeed succeeds | failure fail fails
cause causes causing | prevent prevents preventing avoid avoids
encourage encourages encouraging | discourage discourages discouraging
support supports supported supporting favor favour | oppose opposes opposed opposing
keep keeps keeping kept continue continues continuing | stop stops stopping stopped quit quits quitting
start starts started starting begin | avoid avoids avoiding
allowed permitted legal lawful | prohibited forbidden banned illegal unlawful
included includes including include | excluded excludes excluding exclude
often frequently usually | rarely seldom hardly
harmless | harmful dangerous hazardous
deep deeper deepest | shallow shallower shallowest
wide wider widest broad broader | narrow narrower narrowest
thick thicker thickest | thin thinner thinnest
pro pros advantage advantages benefit benefits upside upsides | con cons disadvantage disadvantages
pro pros advantage advantages benefit benefits upside upsides | drawback drawbacks downside downsides
for | against
decide decides decided agree agrees agreed | refuse refuses refused
inner | outer
encryption encrypting encrypted | decryption decrypting decrypted
mutable | immutable
precede precedes preceded preceding | follow follows followed following succeed succeeds succeeded
previous | next
ascending | descending
horizontal | vertical
lossless | lossy
synchronous sync | asynchronous async
oneway one-way | roundtrip round-trip
"""


def _opposites() -> dict[str, frozenset[str]]:
    table: dict[str, set[str]] = {}
    for line in _OPPOSITES.strip().splitlines():
        left, right = (side.split() for side in line.split("|"))
        for word in left:
            table.setdefault(word, set()).update(right)
        for word in right:
            table.setdefault(word, set()).update(left)
    return {word: frozenset(others) for word, others in table.items()}


OPPOSITES: Final = _opposites()

# Prefixes that turn a word into its opposite; checked when the rest is a word of the other side.
NEGATING_PREFIXES: Final = ("un", "in", "im", "ir", "il", "dis", "non", "anti", "de", "mis")

_SHORT_REST: Final = 3


@lru_cache(maxsize=65_536)
def opposites_of(word: str) -> frozenset[str]:
    """Every word that would reverse this one: listed opposites, un-/in-/dis-, -ful/-less."""
    found = set(OPPOSITES.get(word, ()))
    for prefix in NEGATING_PREFIXES:
        if word.startswith(prefix) and len(word) > len(prefix) + _SHORT_REST:
            found.add(word[len(prefix) :])
    if word.endswith("ful"):
        found.add(f"{word[:-3]}less")
    return frozenset(found)


DATES: Final = words(
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thurs fri sat "
    "sun january february march april june july august september october november december jan "
    "feb mar apr jun jul aug sep sept oct nov dec today tomorrow yesterday tonight weekend noon "
    "midnight morning afternoon evening"
)

UNITS: Final = words(
    "km kilometer kilometers kilometre kilometres mile miles meter meters metre metres cm mm inch "
    "inches feet foot yard yards kg kilogram kilograms gram grams g lb lbs pound pounds ounce "
    "ounces oz ton tons liter liters litre litres ml gallon gallons second seconds minute minutes "
    "hour hours day days week weeks month months year years celsius fahrenheit kelvin dollar "
    "dollars usd euro euros eur gbp yen jpy rupee rupees inr kb mb gb tb percent mg mcg ug µg ng nm um µm "
    "kw mw gw kwh mwh hz khz mhz ghz mph kph kmh acre acres hectare hectares teaspoon teaspoons tsp "
    "tablespoon tablespoons tbsp pint pints quart quarts volt volts amp amps ampere amperes watt watts ohm "
    "ohms joule joules calorie calories bit bits byte bytes kib mib gib"
)

# A state in time: is / used to be / becoming / will be / before / after.
TIME_STATES: Final = {
    "used": "past", "was": "past", "were": "past", "did": "past", "had": "past", "former": "past",
    "previously": "past", "formerly": "past", "ex": "past",
    "become": "becoming", "becoming": "becoming", "became": "becoming", "becomes": "becoming",
    "will": "future", "going": "future", "gonna": "future", "future": "future", "soon": "future",
    "still": "still", "already": "already", "yet": "yet", "again": "again",
}  # fmt: skip

QUESTION_GROUPS: Final = {
    "what": "what", "which": "what", "whats": "what", "what's": "what",
    "who": "who", "whom": "who", "whose": "who", "when": "when", "where": "where", "why": "why",
    "how": "how", "is": "polar", "are": "polar", "was": "polar", "were": "polar", "do": "polar",
    "does": "polar", "did": "polar", "can": "polar", "could": "polar", "should": "polar",
    "would": "polar", "will": "polar", "has": "polar", "have": "polar",
}  # fmt: skip

# Relations that hold both ways: swapping the two names changes nothing.
SYMMETRIC_RELATIONS: Final = words(
    "married engaged dating related same similar identical equal equivalent friends friend "
    "divorced different between neighbors neighbours siblings cousins sibling cousin bound close "
    "next versus vs and or both together compare compared comparison difference distance linked "
    "connected tied allied partners partner adjacent parallel meeting talking speaking chatting "
    "wed separated apart intersect intersects resemble resembles match matches acquaintance "
    "acquaintances colleague colleagues coworker coworkers roommate roommates teammate teammates "
    "classmate classmates spouse spouses twin twins ally allies rival rivals"
)

PRONOUNS: Final = {
    "he": "m", "him": "m", "his": "m", "himself": "m",
    "she": "f", "her": "f", "hers": "f", "herself": "f",
    "they": "p", "them": "p", "their": "p", "theirs": "p", "it": "n", "its": "n",
    "i": "1", "me": "1", "my": "1", "mine": "1", "we": "1p", "us": "1p", "our": "1p",
    "you": "2", "your": "2", "yours": "2",
}  # fmt: skip
