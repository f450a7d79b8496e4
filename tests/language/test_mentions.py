"""What finding names promises: whole names as they are meant, in any script and form, and nothing where words are only words."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona.language.mentions import NameFinder
from persona.schemas import Campaign


def finder(*names: str) -> NameFinder:
    """Of campaigns whose ids are c0, c1, …"""
    return NameFinder([Campaign(campaign_id=f"c{number}", name=name) for number, name in enumerate(names)])


def found(text: str, *names: str) -> list[str]:
    return [names[int(campaign.removeprefix("c"))] for campaign in finder(*names).find(text)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("The Shape of Water", "have you seen the shape of water?"),
        ("The Shape of Water", "THE SHAPE OF WATER!"),
        ("Toy Story 2", "toy-story 2"),
        ("Amélie from Montmartre", "i liked AMELIE FROM MONTMARTRE"),
        ("Amelie from Montmartre", "Amélie from Montmartre"),
        ("Große Straße im Süden", "die GROSSE STRASSE IM SUDEN bitte"),
        ("Ｆｕｌｌ Ｗｉｄｔｈ Offer", "the full width offer"),
        ("Café Crème am Morgen", "cafe\N{COMBINING ACUTE ACCENT} cre\N{COMBINING GRAVE ACCENT}me am morgen"),
        ("We’re the Millers", "we're the millers"),
        ("Lock, Stock & Two Barrels", "lock stock and two barrels"),
        ("千と千尋の神隠し", "昨日千と千尋の神隠しを見ました"),
        ("Война и мир", "читали «война и мир» вчера"),
        ("Inception (2010)", "was it Inception (2010)?"),
        ("Inception (2010)", "was it inception (2010)?"),
        ("Inception (2010)", "I liked Inception a lot"),
        ("Inception (2010)", "I liked Inception's ending"),
        ("Gold Card", "what about the Gold Card?"),
        ("summer sale", "Summer sale, when does it begin?"),
        ("It", 'and "it" is what scared me'),
        ("300 (2006)", "I saw “300” twice"),
        ("It (2017)", "It (2017) was good"),
        ("sneakers", "do you have sneakers?"),
        ("Frozen", "日本語 über ﬁlme: wir sahen “Up” und Frozen gestern"),
    ],
)
def test_a_name_is_found_however_it_is_written(name: str, text: str) -> None:
    assert found(text, name) == [name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("It", "I like it. It is good, and It stays."),
        ("Up", "what is Up with you"),
        ("300 (2006)", "about 300 people"),
        ("Frozen", "my card is frozen"),
        ("Frozen", "Frozen again, this card."),
        ("Frozen", "Yes. Frozen again."),
        ("King", "a book by Stephen King"),
        ("Black", "the actor is Jack Black"),
        ("Stephen", "a book by Stephen King"),
        ("The Help", "thanks for the help"),
        ("Love Story", "it was a love story"),
        ("Gold Card", "the Gold Cards"),
        ("Gold Card", "Marigold Card"),
        ("Old School Days", "bold school days"),
        ("c.t and (d|e)* f", "cat and d f"),
        ("Inception (2010)", "an Inceptionist"),
        ("", "nothing"),
        ("   ", "   "),
        ("!?…", "what!?…"),
        ("(2010)", "in 2010"),
        ("🎬", "🎬"),
    ],
)
def test_words_that_are_no_name_are_not_taken_for_one(name: str, text: str) -> None:
    assert found(text, name) == []


def test_the_longest_name_wins_and_names_may_follow_each_other() -> None:
    names = ("Toy Story", "Toy Story 2", "Story 2 Tell Again", "Finding Nemo")
    assert found("I saw Toy Story 2 and Toy Story", *names) == ["Toy Story", "Toy Story 2"]
    assert found("Toy Story 2 tell again", *names) == ["Toy Story 2"]
    assert found("Toy Story Finding Nemo", *names) == ["Toy Story", "Finding Nemo"]


def test_a_longer_name_that_is_not_meant_hides_no_shorter_one() -> None:
    assert found("thanks for the Frozen tickets", "The Frozen", "Frozen") == ["Frozen"]


def test_all_campaigns_of_one_name_are_found() -> None:
    names = ("The Parent Trap (1961)", "The Parent Trap (1998)", "Psycho")
    assert found("I loved The Parent Trap", *names) == list(names[:2])
    assert found("I loved The Parent Trap (1998)", *names) == [names[1]]
    assert found("the parent trap", "The Parent Trap", "THE PARENT TRAP") == ["The Parent Trap", "THE PARENT TRAP"]


def test_who_is_called_just_that_comes_before_who_is_called_that_and_more() -> None:
    assert found("my favourite is Star Wars", "Star Wars", "Star Wars (1977)") == ["Star Wars"]
    assert found("my favourite is Star Wars (1977)", "Star Wars", "Star Wars (1977)") == ["Star Wars (1977)"]


def test_what_is_written_in_a_name_is_never_a_pattern() -> None:
    name = r"<a> .* [x-z]+ \d (?P<n>"
    assert found(f"it is {name}", name) == [name]
    assert found("a quick zebra 1 n", name) == []


def test_each_campaign_once_and_in_order() -> None:
    assert finder("Gold Card", "Blue Card").find("Blue Card, Gold Card, Blue Card") == ("c0", "c1")


def test_without_names_nothing_is_found() -> None:
    assert NameFinder([]).find("anything") == ()
    assert NameFinder([Campaign(campaign_id="Spring Sale", name="Spring Sale")]).find("the Spring Sale") == ()


def test_the_version_moves_with_names_alone() -> None:
    campaign = Campaign(campaign_id="c", name="Gold Card")
    version = NameFinder([campaign]).version
    assert NameFinder([campaign.model_copy(update={"status": "paused"})]).version == version
    assert NameFinder([campaign, Campaign(campaign_id="seen in a drop", name="seen in a drop")]).version == version
    assert NameFinder([campaign.model_copy(update={"name": "Gold card"})]).version != version
    others = [Campaign(campaign_id=f"c{n}", name=f"Offer {n}") for n in range(5)]
    shuffled = random.Random(1).sample(others, 5)
    assert NameFinder(others).version == NameFinder(shuffled).version


@given(text=st.text(), names=st.lists(st.text(max_size=12), max_size=5))
def test_any_text_and_any_names_will_do(text: str, names: list[str]) -> None:
    campaigns = finder(*names).find(f"{text} {names[0] if names else ''}")
    assert set(campaigns) <= {f"c{number}" for number in range(len(names))}


@given(words=st.lists(st.from_regex(re.compile(r"[a-z]{1,8}", re.ASCII), fullmatch=True), min_size=3, max_size=8))
def test_three_words_in_a_row_are_found_among_any_others(words: list[str]) -> None:
    assert finder(" ".join(words[:3])).find(f"zzzzzzzzz {' '.join(words)}") == ("c0",)
