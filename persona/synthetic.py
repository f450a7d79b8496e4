"""Made-up people, talk and campaigns for demonstrations, tests and benchmarks: the engine of `persona generate`. Reads nothing.

People have tastes; what they say shows them, and what they convert on follows them, on top of a popularity blind to taste.
"""

import gzip
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import IO, Any, NamedTuple

import orjson

from persona.errors import InvalidInput

Record = dict[str, Any]
"""One line of a drop, or one entry of a catalog, as it is written."""

SPAN = timedelta(days=30)
DRIFT_SPAN = timedelta(days=120)
MESSAGES_PER_USER = 8
CAMPAIGNS_PER_TASTE = 4
CHANNELS = ("chat", "email", "sms", "push", "web", "voice", "social", "in_app")
CHANNEL_WEIGHTS = (30, 20, 8, 10, 15, 4, 5, 8)
SEGMENTS = ("new", "regular", "loyal", "lapsed", "student", "family", "business")


# -- what people talk about ---------------------------------------------------------------------------------------------


class Taste(NamedTuple):
    """A subject that some people care for, with the phrases that show it. The intent's name is the taste's."""

    intent: str
    description: str
    things: tuple[str, ...]
    goals: tuple[str, ...]
    remarks: tuple[str, ...]


TASTES = (
    Taste(
        "running",
        "Wants running shoes, training plans or gear for races.",
        ("trail running shoes", "cushioned running shoes", "a GPS running watch", "a half marathon training plan", "racing flats",
         "compression socks for runners", "a hydration vest for long runs", "a light rain jacket for jogging"),
        ("for my first marathon", "for daily 10k runs", "because my knees hurt after every run", "for muddy forest paths",
         "before the spring race season", "to get my 5k time down", "for early morning jogs", "since I run on asphalt a lot"),
        ("I just signed up for a half marathon.", "My old running shoes are worn through.", "I run four times a week now.",
         "Our running club meets every Tuesday.", "I finally broke 50 minutes on the 10k.", "Jogging keeps me sane."),
    ),
    Taste(
        "family_holidays",
        "Plans a holiday with children: resorts, flights, beaches.",
        ("a family resort with a kids club", "an all-inclusive beach hotel", "cheap flights for a family of four",
         "a holiday cottage near the sea", "a camping trip with children", "tickets for a theme park", "a family cruise",
         "a self-catering apartment by the beach"),
        ("for the summer holidays", "with two toddlers", "during the school break", "with the grandparents along",
         "somewhere warm in October", "without a long flight", "with a pool for the kids", "for a week at Easter"),
        ("The kids are dreaming of the beach.", "We need a proper family vacation this year.", "Our last holiday was rained out.",
         "School is out in three weeks.", "My daughter wants to see dolphins.", "We travel with a baby for the first time."),
    ),
    Taste(
        "home_office",
        "Sets up or improves a place to work at home.",
        ("a standing desk", "an ergonomic office chair", "a second monitor", "a docking station for my laptop",
         "a noise cancelling headset", "a webcam for video calls", "a quiet mechanical keyboard", "a desk lamp"),
        ("for working from home", "because my back aches at the desk", "for endless video meetings", "for a very small study",
         "now that my team went remote", "to get the laptop off the kitchen table", "for long days of typing",
         "for my home office"),
        ("I work remotely five days a week now.", "My desk is a mess of cables.", "Everyone on the call says I sound hollow.",
         "Sitting on a dining chair all day is killing me.", "My company pays part of the desk setup.", "I code at home."),
    ),
    Taste(
        "vegan_cooking",
        "Cooks plant-based food and looks for recipes, ingredients or tools.",
        ("vegan recipes", "plant-based protein", "a weekly vegetable box", "oat milk and tofu", "a vegan cookbook",
         "a high-speed blender for smoothies", "dairy-free cheese", "a meal kit without meat"),
        ("for quick weekday dinners", "since I stopped eating meat", "for a vegan birthday cake",
        "with lots of beans and lentils",
         "that even my dad would eat", "for meal prep on Sundays", "without soy", "for cooking with the whole family"),
        ("We have been vegan since January.", "I am learning to cook with tempeh.", "My chickpea curry was a success.",
         "I want to eat less meat and dairy.", "The vegetables at the market were beautiful.", "Tofu is still a mystery to me."),
    ),
    Taste(
        "gaming",
        "Plays video games and wants consoles, titles or accessories.",
        ("a gaming laptop", "the new console bundle", "a graphics card", "a wireless controller", "an online multiplayer pass",
         "a 144 Hz gaming monitor", "a racing wheel", "the latest role-playing game"),
        ("for playing with friends online", "to run new titles at high settings", "for weekend LAN parties", "for co-op nights",
         "without lag", "for my esports team", "before the big release on Friday", "for split-screen on the couch"),
        ("I spent the whole weekend on that boss fight.", "My PC stutters in every shooter.", "We play ranked every evening.",
         "I preordered the expansion.", "My old console gave up.", "The frame rate drops whenever it gets busy on screen."),
    ),
    Taste(
        "gardening",
        "Looks after a garden or balcony: plants, seeds, tools.",
        ("tomato seedlings", "a raised garden bed", "a cordless lawn mower", "organic potting soil", "rose bushes",
         "an automatic watering system", "herb seeds for the balcony", "a small greenhouse"),
        ("for my vegetable patch", "before the frost is over", "for a shady corner of the garden", "to keep the slugs away",
         "for a balcony facing south", "that bees like", "for planting in spring", "because the lawn is all moss"),
        ("The hydrangeas are wilting.", "I dug over the vegetable beds yesterday.", "Our allotment is finally ours.",
         "Something is eating my lettuce.", "The first strawberries are ripe.", "I love pruning on a quiet Sunday."),
    ),
    Taste(
        "photography",
        "Takes photographs and wants cameras, lenses or lessons.",
        ("a mirrorless camera", "a portrait lens", "a carbon travel tripod", "a photo editing course", "a macro lens",
         "large photo prints", "a camera backpack", "a flash for indoor shots"),
        ("for wildlife pictures", "for shooting weddings", "for night skies and stars", "for street photography",
         "with better low-light performance", "to learn manual mode", "for landscape shots at dawn", "for my portfolio"),
        ("My photos come out grainy at night.", "I got a picture into a local exhibition.", "I shoot in raw these days.",
         "The light this morning was perfect for pictures.", "I take my camera everywhere.", "Bokeh is my new obsession."),
    ),
    Taste(
        "personal_finance",
        "Wants to save, invest, borrow or insure.",
        ("a savings account with a good rate", "an index fund savings plan", "advice on a mortgage", "a retirement plan",
         "a credit card without annual fee", "a budgeting app", "life insurance", "a low-cost broker account"),
        ("to buy our first flat", "for putting aside 200 a month", "before interest rates move again", "for my pension",
         "to pay off my student loan", "to build an emergency fund", "with little risk", "for my children's education"),
        ("I want my money to do more than lie around.", "Inflation is eating my savings.",
        "I just got a raise and want to invest.",
         "My tax refund arrived.", "We are comparing mortgage rates.", "I lost track of what I spend every month."),
    ),
    Taste(
        "mobile_plans",
        "Wants a phone, a tariff, more data or roaming.",
        ("an unlimited data plan", "a new smartphone with a contract", "an EU roaming package", "a SIM-only tariff",
         "a family mobile plan", "a prepaid SIM card", "5G home internet", "an eSIM for my tablet"),
        ("because I run out of data every month", "for travelling abroad", "with better coverage in the countryside",
         "when my contract ends", "for my teenage son", "without a two-year contract", "to keep my old number", "for streaming"),
        ("My phone bill doubled last month.", "There is no signal in my village.", "My contract renewal is due.",
         "The screen of my smartphone cracked.", "Half of my gigabytes are gone by the tenth.", "I got charged for roaming."),
    ),
    Taste(
        "pet_care",
        "Has a dog, cat or other pet and needs food, toys or care.",
        ("grain-free dog food", "a cat scratching post", "puppy training classes", "pet insurance", "an orthopaedic dog bed",
         "a litter box that does not smell", "a harness for a large dog", "cat toys"),
        ("for our new puppy", "for an old cat with bad teeth", "because he pulls on the leash", "for a dog with allergies",
         "while we are at work", "that survive a terrier", "for two indoor cats", "before we go to the vet again"),
        ("We adopted a rescue dog last week.", "The cat shredded the sofa.", "Our puppy chews everything.",
         "The vet said he is overweight.", "My dog is scared of thunder.", "The kitten sleeps on my keyboard."),
    ),
    Taste(
        "home_music",
        "Plays an instrument or wants better sound at home.",
        ("a digital piano", "an acoustic guitar", "online guitar lessons", "a turntable", "bookshelf speakers",
         "a home recording microphone", "a ukulele for beginners", "concert tickets"),
        ("for practising at night with headphones", "to record my own songs", "for playing vinyl records", "for first lessons",
         "with a warm sound", "for our jazz trio", "to sing along to", "for the living room"),
        ("I started learning the piano at forty.", "My vinyl collection keeps growing.", "Our band plays its first gig soon.",
         "The guitar strings snapped again.", "I hum that melody all day.", "We recorded a demo in the cellar."),
    ),
    Taste(
        "skin_care",
        "Looks after skin and hair: creams, routines, treatments.",
        ("a moisturiser for dry skin", "a sunscreen for sensitive skin", "a vitamin C serum", "a shampoo for curly hair",
         "a retinol night cream", "a gentle face cleanser", "a facial treatment", "a perfume-free body lotion"),
        ("for redness in winter", "without fragrance", "against breakouts on my chin", "for my evening routine",
         "that does not sting my eyes", "for mature skin", "that goes under make-up", "after too much sun"),
        ("My skin is so dry at the moment.", "My face gets oily by noon.", "I want a simple skincare routine.",
         "That last cream gave me a rash.", "My hair is frizzy whenever it rains.", "The dermatologist told me to moisturise."),
    ),
)  # fmt: skip

OPENINGS = (
    "", "", "", "Hi, ", "Hello, ", "Hey there, ", "Good morning, ", "Quick question: ", "Hi team, ", "Me again, ",
    "Good evening, ",
    "Sorry to bother you, ", "One more thing: ", "Hiya, ",
)  # fmt: skip
REQUESTS = (
    "I'm looking for {thing} {goal}.",
    "do you have any offers on {thing}?",
    "could you recommend {thing} {goal}?",
    "I need {thing} {goal}.",
    "what would you suggest if I want {thing} {goal}?",
    "is there a discount on {thing} at the moment?",
    "I've been thinking about getting {thing} {goal}.",
    "any deals on {thing} {goal}?",
    "my {relative} told me to ask you about {thing}.",
    "how much would I pay for {thing} {goal}?",
    "I compared {thing} and {other}, and cannot decide!",
    "can I still get {thing} by {day}?",
)
CLOSINGS = (
    "", "", "", "", " Thanks!", " Budget is around {price}.", " Ideally by {day}.", " Any ideas?", " Nothing too fancy.",
    " I would pay up to {price}.", " And soon, please.", " Thanks a lot in advance!", " 🙂",
    " It is a present for my {relative}.",
)  # fmt: skip
RELATIVES = ("sister", "neighbour", "colleague", "brother", "best friend", "partner", "cousin", "flatmate", "boss", "mum")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "next week", "the weekend", "the holidays")

SMALL_TALK = (
    "{opening}how are you doing on this {mood} {day}{mark}",
    "{opening}thanks, that is all for {now}{mark}",
    "Thank you, {name}, you were {mood} to talk to{mark}",
    "ok, {now} works for me{mark}",
    "{opening}my order number is {number}, where is my parcel{mark}",
    "What a {mood} {day} it was{mark} Talk to you {now}.",
    "{opening}is anybody there{mark} I have been waiting {minutes} minutes.",
    "Could you call me back {now}, after {hour}{mark}",
    "I moved, my new house number is {number}{mark}",
    "{opening}I forgot my password, ticket {number}{mark}",
    "haha yes, {mood} indeed{mark}",
    "Please say hello to {name} from me{mark}",
    "When do you close {now}{mark} My bus leaves at {hour}.",
    "no worries, {name}, {now} is fine{mark}",
    "Invoice {number} arrived twice{mark}",
)
MOODS = ("lovely", "strange", "quiet", "busy", "grey", "great", "long", "funny", "nice", "hectic", "weird", "calm")
NOWS = ("today", "now", "tomorrow", "tonight", "later", "this evening", "this afternoon", "in the morning")
NAMES = ("Anna", "Ben", "Carla", "David", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kim", "Lena", "Nora", "Omar")
MARKS = ("", ".", "!", "?", "...", " :)", "!!", " 😊")

OFFERS = (
    ("{Thing}: {n} % off", "Save {n} % on {thing}, {other} and more."),
    ("{Thing} weeks", "Everything on {thing} and {other}, with advice from experts."),
    ("Start with {thing}", "New here? Our starter offer on {thing} and {other}."),
    ("{Thing}, members first", "Members get {thing} early and with free delivery; also {other}."),
    ("Two for one: {thing}", "Bring a friend: two for the price of one on {thing} and {other}."),
)
PRAISE = ('I saw "{name}", tell me more.', 'is "{name}" still on?', '"{name}" sounds good to me.', 'can I use "{name}" {goal}?')


# -- the generated world ------------------------------------------------------------------------------------------------


class _Choice(NamedTuple):
    campaigns: range
    cumulative: list[float]

    @classmethod
    def among(cls, campaigns: range, weights: list[float]) -> "_Choice":
        return cls(campaigns, list(accumulate(weights[campaign] for campaign in campaigns)))

    def draw(self, rng: Random) -> int:
        return rng.choices(self.campaigns, cum_weights=self.cumulative)[0]


class _Person(NamedTuple):
    tastes: tuple[int, ...]
    weights: tuple[float, ...]
    channel: str


@dataclass(frozen=True)
class Synthetic:
    """A world that can be told again: `records` gives the same every time, remembering no more than each user's conversions."""

    messages: int
    """How many messages; where popularity drifts, how many events."""
    users: int
    campaigns: int
    seed: int
    end: datetime
    drift: bool = False
    """Events without a word instead of talk, on campaigns that come into fashion and go out of it."""

    @property
    def name(self) -> str:
        """Differs between worlds with different records, so their ids and files never collide."""
        kind = "/drift" if self.drift else ""
        world = f"{self.messages}/{self.users}/{self.campaigns}/{self.seed}/{self.end.isoformat()}{kind}"
        return f"{self.seed}-{hashlib.sha256(world.encode()).hexdigest()[:6]}"

    def campaign_catalog(self) -> list[Record]:
        """What `persona.schemas.Campaign` accepts; the same for every seed, so worlds can be mixed."""
        return [_campaign(index) for index in range(self.campaigns)]

    def intent_catalog(self) -> list[Record]:
        """What `persona.schemas.IntentDefinition` accepts: one intent a taste, ten examples each."""
        return [
            {"intent": taste.intent, "description": taste.description, "examples": list(dict.fromkeys(_examples(taste)))}
            for taste in TASTES
        ]

    def customers(self) -> Iterator[Record]:
        """What `persona.schemas.Customer` accepts, one for each user."""
        for user in range(self.users):
            rng = Random(f"{self.seed}/customer/{user}")
            consent: bool | dict[str, bool] = rng.random() < 0.85
            if rng.random() < 0.15:
                consent = {channel: rng.random() < 0.7 for channel in ("email", "sms", "push")}
            yield {
                "user_id": _user_id(user),
                "segments": rng.sample(SEGMENTS, k=rng.randint(1, 2)),
                "consent": consent,
                "suppressed": rng.random() < 0.02,
            }

    def counted(self, record: Record) -> bool:
        """Whether the record is one of the `messages`, and not something that follows one."""
        return self.drift or "message" in record

    def records(self) -> Iterator[Record]:
        """Every record, roughly by time: `messages` messages and the events that follow them, or the events alone."""
        return self._drifting() if self.drift else self._talk()

    def _talk(self) -> Iterator[Record]:
        rng = Random(f"{self.seed}/records")
        catalog = self.campaign_catalog()
        pushed = _popularity(self.seed, self.campaigns)
        everything = _Choice.among(range(self.campaigns), pushed)
        own = [range(taste, self.campaigns, len(TASTES)) for taste in range(len(TASTES))]
        shelves = [_Choice.among(campaigns, pushed) if campaigns else everything for campaigns in own]
        person = lru_cache(maxsize=4096)(lambda user: _person(self.seed, user))
        converted: dict[int, int] = {}  # user -> bit set of campaigns
        begin = self.end - SPAN
        usable = (SPAN - timedelta(hours=3)).total_seconds()
        prefix = f"m_{self.name}_"
        written = number = session = 0

        def record(user: int, at: float, channel: str, **fields: Any) -> Record:
            nonlocal number
            number += 1
            when = begin + timedelta(seconds=int(at))
            return {
                "user_id": _user_id(user), **fields, "channel": channel,
                "timestamp": when.isoformat().replace("+00:00", "Z"), "message_id": f"{prefix}{number:06d}",
            }  # fmt: skip

        while written < self.messages:
            session += 1
            user = int(self.users * rng.random() ** 1.2)
            likes = person(user)
            at = usable * (written + rng.random()) / self.messages
            channel = likes.channel if rng.random() < 0.7 else rng.choices(CHANNELS, CHANNEL_WEIGHTS)[0]
            grouped = {"conversation_id": f"conv_{self.name}_{session:06d}"} if rng.random() < 0.4 else {}
            taste = rng.choices(likes.tastes, likes.weights)[0] if rng.random() < 0.92 else rng.randrange(len(TASTES))
            for _ in range(min(rng.choices((1, 2, 3, 4), (35, 35, 20, 10))[0], self.messages - written)):
                fields: Record = dict(grouped)
                if rng.random() < 0.28:
                    fields["message"] = _small_talk(rng)
                else:
                    fields["message"] = _request(rng, TASTES[taste])
                    if rng.random() < 0.08:
                        campaign = shelves[taste].draw(rng)
                        fields["message"] = _about(rng, TASTES[taste], catalog[campaign]["name"])
                        fields["campaign_id"] = _campaign_id(campaign)
                    if rng.random() < 0.1:
                        fields["intent"] = TASTES[taste].intent
                yield record(user, at, channel, **fields)
                written += 1
                at += rng.randint(15, 240)

            for _ in range(rng.choices((0, 1, 2, 3), (25, 35, 25, 15))[0]):
                liked = rng.choices(likes.tastes, likes.weights)[0]
                blind = rng.random() < 0.4
                campaign = (everything if blind else shelves[liked]).draw(rng)
                taken = converted.get(user, 0)
                if taken >> campaign & 1:
                    continue
                at += rng.randint(30, 900)
                offer = {"campaign_id": _campaign_id(campaign)}
                yield record(user, at, channel, **offer, event="impression")
                fits = campaign % len(TASTES) in likes.tastes
                if rng.random() >= (0.6 if fits else 0.35):
                    if rng.random() < (0.01 if fits else 0.06):
                        last = "dismiss" if rng.random() < 0.85 else "unsubscribe"
                        yield record(user, at + 5, channel, **offer, event=last)
                    continue
                if channel in ("email", "push"):
                    yield record(user, at + 10, channel, **offer, event="open")
                yield record(user, at + 20, channel, **offer, event="click")
                if rng.random() < (0.75 if fits else 0.55):
                    converted[user] = taken | 1 << campaign
                    basket = round(rng.lognormvariate(3.6, 0.6), 2)
                    yield record(user, at + rng.randint(60, 1200), channel, **offer, event="conversion", value=basket)

    def _drifting(self) -> Iterator[Record]:
        """People come and go, each for a fifth of the time, and take within their tastes what is in fashion on the day."""
        rng = Random(f"{self.seed}/drift")
        fashions = [_Fashion.draw(rng) for _ in range(self.campaigns)]
        own = [range(taste, self.campaigns, len(TASTES)) for taste in range(len(TASTES))]
        begin = self.end - DRIFT_SPAN
        taken: dict[int, int] = {}  # user -> bit set of campaigns
        day, everything, shelves = -1, _Choice(range(0), []), [_Choice(range(0), [])]
        for number in range(self.messages):
            elapsed = DRIFT_SPAN * (number / self.messages)
            if elapsed.days != day:
                day = elapsed.days
                now = [fashion.on(day) for fashion in fashions]
                everything = _Choice.among(range(self.campaigns), now)
                shelves = [_Choice.among(campaigns, now) if campaigns else everything for campaigns in own]
            user = int(self.users * (0.8 * number / self.messages + 0.2 * rng.random() ** 1.5))
            likes = _person(self.seed, user)
            shelf = shelves[rng.choices(likes.tastes, likes.weights)[0]] if rng.random() < 0.75 else everything
            campaign = _something_new(rng, shelf, everything, taken.get(user, 0))
            taken[user] = taken.get(user, 0) | 1 << campaign
            fits = campaign % len(TASTES) in likes.tastes
            event = rng.choices(("conversion", "click", "dismiss"), (65, 34, 1) if fits else (50, 40, 10))[0]
            yield {
                "user_id": _user_id(user), "campaign_id": _campaign_id(campaign), "event": event, "channel": likes.channel,
                "timestamp": (begin + elapsed).isoformat(timespec="seconds").replace("+00:00", "Z"),
                "message_id": f"d_{self.name}_{number:06d}",
            }  # fmt: skip


def _something_new(rng: Random, shelf: _Choice, everything: _Choice, taken: int) -> int:
    """A campaign that is not in the bit set `taken`: from the shelf, else from everything, else any."""
    for choice in (shelf,) * 4 + (everything,) * 8:
        drawn = choice.draw(rng)
        if not taken >> drawn & 1:
            return drawn
    return rng.choice(everything.campaigns)


class _Fashion(NamedTuple):
    launched: float
    size: float
    days: float

    @classmethod
    def draw(cls, rng: Random) -> "_Fashion":
        return cls(rng.uniform(-60, DRIFT_SPAN.days - 5), rng.lognormvariate(0, 1), rng.uniform(3, 30))

    def on(self, day: int) -> float:
        """How much the campaign is asked for: nothing before its launch, most after `days` days, ever less from then on."""
        age = max(day - self.launched, 0.0) / self.days
        return self.size * (age * math.exp(1 - age) + 0.03 * min(age, 1.0)) + 1e-6


def generate(
    *,
    messages: int = 300,
    users: int | None = None,
    campaigns: int | None = None,
    seed: int = 7,
    end: datetime | None = None,
    drift: bool = False,
) -> Synthetic:
    """Lay out a world of `messages` messages and the events around them, over the 30 days before `end` (default: this hour).

    With `drift` it is `messages` events without a word, over 120 days in which campaigns come into fashion and go out of it.
    `users` defaults to an eighth of `messages`, `campaigns` to four for each of the twelve tastes. The same arguments always
    give the same world. Raises `InvalidInput` for a count below one.
    """
    for name, count in (("messages", messages), ("users", users), ("campaigns", campaigns)):
        if count is not None and count < 1:
            raise InvalidInput(f"{name} is {count}; it has to be 1 or more")
    return Synthetic(
        messages=messages,
        users=users or max(1, math.ceil(messages / MESSAGES_PER_USER)),
        campaigns=campaigns or CAMPAIGNS_PER_TASTE * len(TASTES),
        seed=seed,
        end=(end or datetime.now(UTC).replace(minute=0, second=0, microsecond=0)).astimezone(UTC),
        drift=drift,
    )


def write(
    synthetic: Synthetic,
    drops_dir: Path,
    catalog_dir: Path,
    *,
    drops: int = 1,
    compress: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write the catalogs, then the records as `drops` JSON-lines files of equal messages, in order of time; return the drops.

    Files appear under their names only when they are whole. `progress` is called with the number of messages written so far,
    about every thousand.
    """
    drops_dir.mkdir(parents=True, exist_ok=True)
    catalog_dir.mkdir(parents=True, exist_ok=True)
    _write_array(catalog_dir / "campaigns.json", synthetic.campaign_catalog())
    _write_array(catalog_dir / "intents.json", synthetic.intent_catalog())
    _write_array(catalog_dir / "users.json", synthetic.customers())

    paths: list[Path] = []
    records = synthetic.records()
    waiting = next(records, None)
    messages = 0
    for part in range(1, drops + 1):
        suffix = ".jsonl.gz" if compress else ".jsonl"
        path = drops_dir / f"synthetic-{synthetic.name}-{part:03d}-of-{drops:03d}{suffix}"
        last_message = part * synthetic.messages // drops
        with _whole_file(path, compress=compress) as file:
            while waiting is not None and not (synthetic.counted(waiting) and messages >= last_message):
                file.write(orjson.dumps(waiting, option=orjson.OPT_APPEND_NEWLINE))
                if synthetic.counted(waiting):
                    messages += 1
                    if progress and messages % 1000 == 0:
                        progress(messages)
                waiting = next(records, None)
        paths.append(path)
    if progress:
        progress(messages)
    return paths


def event_records(n: int, pairs: int, seed: int = 7, *, end: datetime | None = None) -> Iterator[Record]:
    """Yield `n` events without words over min(n, pairs) distinct (user, campaign) pairs, ten campaigns a user, for benchmarks.

    Every pair comes up before any comes up again. Times run evenly over the 30 days before `end` (default: this hour).
    """
    campaigns, per_user = 1000, 10
    end_ms = int((end or datetime.now(UTC).replace(minute=0, second=0, microsecond=0)).timestamp() * 1000)
    span_ms = int(SPAN.total_seconds() * 1000)
    begin_ms = end_ms - span_ms
    rng = Random(f"{seed}/events")
    stride = next(step for step in range(max(1, int(pairs * 0.618)), pairs + 2) if math.gcd(step, pairs) == 1)
    events = ("impression", "impression", "impression", "impression", "open", "click", "click", "conversion")
    prefix = f"e_{seed}_{end_ms // 1000:x}_{n:x}_{pairs:x}_"
    offset = rng.randrange(pairs)
    for index in range(n):
        pair = (index * stride + offset) % pairs
        user = pair // per_user
        yield {
            "user_id": f"u_{user + 1:03d}",
            "campaign_id": f"c_{101 + (pair % per_user * 97 + user * 31) % campaigns}",
            "event": events[int(rng.random() * len(events))],
            "timestamp": begin_ms + span_ms * index // n,
            "message_id": f"{prefix}{index}",
        }


# -- people and campaigns -------------------------------------------------------------------------------------------------


def _user_id(user: int) -> str:
    return f"u_{user + 1:03d}"


def _campaign_id(campaign: int) -> str:
    return f"c_{campaign + 101}"


def _person(seed: int, user: int) -> _Person:
    rng = Random(f"{seed}/user/{user}")
    tastes = tuple(rng.sample(range(len(TASTES)), k=rng.randint(1, 2)))
    return _Person(tastes, (0.7, 0.3)[: len(tastes)], rng.choices(CHANNELS, CHANNEL_WEIGHTS)[0])


def _popularity(seed: int, campaigns: int) -> list[float]:
    """How often each campaign is pushed, whoever is there: a power law over a random order."""
    ranks = list(range(1, campaigns + 1))
    Random(f"{seed}/popularity").shuffle(ranks)
    return [rank**-0.8 for rank in ranks]


def _campaign(index: int) -> Record:
    taste = TASTES[index % len(TASTES)]
    turn = index // len(TASTES)
    rng = Random(f"campaign/{index}")
    thing, other = taste.things[turn % len(taste.things)], taste.things[(turn + 3) % len(taste.things)]
    name, description = OFFERS[(turn + index) % len(OFFERS)]
    plain = thing.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    slots = {"thing": thing, "Thing": plain[0].upper() + plain[1:], "other": other, "n": rng.randrange(10, 45, 5)}
    round_number = turn // len(taste.things)
    campaign: Record = {
        "campaign_id": _campaign_id(index),
        "name": name.format(**slots) + (f" ({round_number + 1})" if round_number else ""),
        "description": description.format(**slots),
        "intents": [taste.intent],
        "categories": [taste.intent],
        "channels": rng.sample(CHANNELS, k=5) if rng.random() < 0.15 else [],
        "requires_consent": rng.random() < 0.15,
    }
    if rng.random() < 0.1:
        campaign["frequency_cap"] = {"count": 5, "days": 7}
    return campaign


# -- what they say --------------------------------------------------------------------------------------------------------


def _examples(taste: Taste) -> Iterator[str]:
    rng = Random(f"examples/{taste.intent}")
    yield from rng.sample(taste.remarks, k=3)
    for thing in rng.sample(taste.things, k=7):
        yield _capital(_sentence(rng, rng.choice(REQUESTS), taste, thing=thing))


def _request(rng: Random, taste: Taste) -> str:
    shape = rng.random()
    opening = rng.choice(OPENINGS)
    if shape < 0.08:
        return opening + rng.choice(taste.remarks)
    remark = rng.choice(taste.remarks) if shape < 0.4 else ""
    request = _sentence(rng, rng.choice(REQUESTS), taste, thing=rng.choice(taste.things))
    return f"{opening}{remark} {_capital(request)}" if remark else _capital(opening + request)


def _about(rng: Random, taste: Taste, name: str) -> str:
    return _capital(rng.choice(OPENINGS) + _sentence(rng, rng.choice(PRAISE), taste, name=name))


def _sentence(rng: Random, template: str, taste: Taste, **slots: str) -> str:
    return (template + rng.choice(CLOSINGS)).format(
        goal=rng.choice(taste.goals), other=rng.choice(taste.things), day=rng.choice(DAYS), relative=rng.choice(RELATIVES),
        price=f"{rng.randint(3, 99) * 5} euros", **slots,
    )  # fmt: skip


def _small_talk(rng: Random) -> str:
    text = rng.choice(SMALL_TALK).format(
        opening=rng.choice(OPENINGS), mood=rng.choice(MOODS), day=rng.choice(DAYS[:7]), now=rng.choice(NOWS),
        name=rng.choice(NAMES), mark=rng.choice(MARKS), number=rng.randint(10_000, 999_999), minutes=rng.randint(2, 45),
        hour=f"{rng.randint(7, 20)}:{rng.randrange(0, 60, 5):02d}",
    )  # fmt: skip
    return _capital(text) if rng.random() < 0.8 else text


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# -- files ----------------------------------------------------------------------------------------------------------------


@contextmanager
def _whole_file(path: Path, *, compress: bool = False) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A file that takes its name when the block ends well, and leaves nothing behind when it does not."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as raw:
            if compress:
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as zipped:
                    yield zipped
            else:
                yield raw
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_array(path: Path, entries: Iterable[Record]) -> None:
    with _whole_file(path) as file:
        separator = b"[\n"
        for entry in entries:
            file.write(separator + orjson.dumps(entry))
            separator = b",\n"
        file.write(b"\n]\n")
