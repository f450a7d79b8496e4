"""Texts to the campaigns they name: the catalog's names found in words, by one automaton for all of them. Pure; knows no store."""

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ahocorasick_rs import AhoCorasick

from persona.schemas import Campaign

METHOD = "1"
"""Moves when other names are found in the same text."""
LEAST_LETTERS = 4
"""A single word that is shorter names nothing: “It”, “Her” and “Up” are in every second sentence."""
DISTINCT_WORDS = 3
"""As many words in a row are hardly said by accident, however they are written."""

NO_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Scripts that put no spaces between words: there every character is one."""
WORD = re.compile(rf"[{NO_SPACES}]|[^\W_{NO_SPACES}]+")
ACCENTS = re.compile("[\u0300-\u036f]")
IN_BRACKETS = re.compile(r"\s*\([^()]*\)\s*$")
QUOTES = re.compile('["“”„«»‹›「」『』《》]')
SENTENCE_END = re.compile("[.!?。\n]")


@dataclass(frozen=True, slots=True)
class _Spelling:
    """A name as campaigns write it."""

    words: tuple[str, ...]
    whole: bool
    """Not only what stands before the brackets at its end."""
    distinct: bool
    """Meant whenever these words are said."""


class NameFinder:
    """Finds campaigns by name, at word boundaries, the longest name first; case, accents and punctuation do not matter.

    A name is found without the brackets at its end too, unless another campaign is called just that; campaigns of one name are all
    found. Names of one or two words might be ordinary ones. They count in quotation marks; or, of two words, written with the
    name's capitals, and of one, of four letters or more, if it also neither begins a sentence nor is part of a longer proper name.
    """

    def __init__(self, campaigns: Iterable[Campaign]) -> None:
        names = sorted((campaign.campaign_id, campaign.name) for campaign in campaigns if campaign.name != campaign.campaign_id)
        self.version = _version(names)
        """A short hash of everything that decides what is found: the method, and each campaign's name."""
        called: dict[_Spelling, set[str]] = defaultdict(set)
        for campaign_id, name in names:
            for spelling in _spellings(name):
                called[spelling].add(campaign_id)
        patterns: dict[str, dict[_Spelling, set[str]]] = defaultdict(dict)
        for spelling, campaigns_called_so in called.items():
            patterns[_encoded(spelling.words)][spelling] = campaigns_called_so
        self._called = list(patterns.values())
        self._automaton = AhoCorasick(list(patterns), store_patterns=False)

    def find(self, text: str) -> tuple[str, ...]:
        """The ids of the campaigns that the text names, in order, each once."""
        plain = _plain(text)
        encoded = _encoded(WORD.findall(plain))
        matches = self._automaton.find_matches_as_indexes(encoded, overlapping=True)
        if not matches:
            return ()
        said = _Said(plain)
        found: set[str] = set()
        first, counted, reached = 0, 0, 0
        for pattern, start, end in sorted(matches, key=lambda match: (match[1], -match[2])):
            if start < reached:
                continue
            first, counted = first + encoded.count("<", counted, start), start
            called = self._called[pattern]
            if meant := [spelling for spelling in called if said.means(spelling, first)]:
                found.update(*(called[spelling] for spelling in _closest(meant)))
                reached = end
        return tuple(sorted(found))


class _Said:
    """A text word by word, to tell whether words that could be a name are meant as one."""

    def __init__(self, plain: str) -> None:
        words = list(WORD.finditer(plain))
        self._words = [word.group() for word in words]
        ends = [0, *(word.end() for word in words)]
        starts = [*(word.start() for word in words), len(plain)]
        self._gaps = [plain[end:start] for end, start in zip(ends, starts, strict=True)]
        """What stands before each word, and behind the last."""

    def means(self, spelling: _Spelling, first: int) -> bool:
        """Whether the words from number `first` on, which are those of the name but for their case, are meant as the name."""
        if spelling.distinct:
            return True
        behind = first + len(spelling.words)
        if QUOTES.search(self._gaps[first]) and QUOTES.search(self._gaps[behind]):
            return True
        capitals = all(map(_as_capital, self._words[first:behind], spelling.words))
        return capitals and (len(spelling.words) > 1 or self._stands_out(first))

    def _stands_out(self, at: int) -> bool:
        word = self._words[at]
        characteristic = len(word) >= LEAST_LETTERS and not word.isdecimal()
        return characteristic and not self._begins(at) and not self._is_part_of_a_name(at)

    def _begins(self, at: int) -> bool:
        return at == 0 or SENTENCE_END.search(self._gaps[at]) is not None

    def _is_part_of_a_name(self, at: int) -> bool:
        before = not self._begins(at - 1) and self._capital(at - 1) and self._gaps[at].isspace()
        return before or (at + 1 < len(self._words) and self._capital(at + 1) and self._gaps[at + 1].isspace())

    def _capital(self, at: int) -> bool:
        return self._words[at][0].isupper() and self._words[at] != "I"


def _closest(meant: list[_Spelling]) -> list[_Spelling]:
    """Of names those that are just that, else those that go on in brackets."""
    return [spelling for spelling in meant if spelling.whole] or meant


def _spellings(name: str) -> Iterable[_Spelling]:
    plain = _plain(name)
    short = IN_BRACKETS.sub("", plain)
    for spelled, whole in ((plain, True), *([(short, False)] if short != plain else [])):
        if words := tuple(WORD.findall(spelled)):
            distinct = len(words) >= DISTINCT_WORDS or (whole and short != plain and len(words) > 1)
            yield _Spelling(words, whole, distinct)


def _plain(text: str) -> str:
    """Without accents and other differences of form; still with its case and punctuation."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", ACCENTS.sub("", unicodedata.normalize("NFKD", text))).replace("ʼ", "'")
    return text.replace("&", " and ")


def _encoded(words: Iterable[str]) -> str:
    """Every word between marks of its own, so that only whole words match and names that follow each other share nothing."""
    return "".join(f"<{word}>" for word in words).casefold()


def _as_capital(said: str, named: str) -> bool:
    """Whether a word that the name writes with capitals has them."""
    return said == named or named.islower()


def _version(names: list[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps([METHOD, names]).encode()).hexdigest()[:12]
