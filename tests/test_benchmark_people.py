"""The people of the serving benchmark: a world that is not what its figures say it is would measure something else."""

from datetime import UTC, datetime
from itertools import chain

import numpy as np
import pytest

from benchmarks.serving.people import SPAN, Crowd, People
from persona.stores.documents.embeddings import text_hash

END = datetime(2026, 1, 1, tzinfo=UTC)


class Numbers:
    """Vectors by nothing but the number of the text."""

    fingerprint = "numbers"
    dimension = 8

    def encode(self, texts):
        return np.random.default_rng(len(texts)).normal(size=(len(texts), self.dimension)).astype(np.float32)


def people(users: int, seed: int = 7) -> People:
    return People(users=users, seed=seed, end=END, encoder=Numbers())


@pytest.fixture(scope="module")
def crowds() -> list[Crowd]:
    return list(people(1_100).crowds())


def test_everybody_engages_with_as_many_campaigns_as_there_are_engagements_for(crowds):
    engaged = [record for crowd in crowds for record in crowd.records if "campaign_id" in record]
    pairs = {(record["user_id"], record["campaign_id"]) for record in engaged}
    assert len(pairs) == len(engaged) == people(1_100).engagements == 19_360
    assert len({user for user, _ in pairs}) == 1_100


def test_the_catalog_knows_everybody(crowds):
    known = [customer.user_id for customer in people(1_100).customers()]
    assert known == list(chain.from_iterable(crowd.histories for crowd in crowds))


def test_everybody_says_something_that_has_a_vector(crowds):
    for crowd in crowds:
        said = [record for record in crowd.records if "message" in record]
        assert {record["user_id"] for record in said} == crowd.histories.keys()
        assert [record["text_hash"] for record in said] == [text_hash(record["message"]) for record in said]
        assert {record["text_hash"] for record in said} == crowd.vectors.keys()
        assert np.linalg.norm(list(crowd.vectors.values()), axis=1) == pytest.approx(1, abs=1e-5)


def test_records_have_ids_of_their_own_and_lie_in_order_before_the_end(crowds):
    records = list(chain.from_iterable(crowd.records for crowd in crowds))
    assert len({record["_id"] for record in records}) == len(records)
    assert all(END - SPAN <= record["timestamp"] <= END for record in records)
    for history in chain.from_iterable(crowd.histories.values() for crowd in crowds):
        assert history == sorted(history, key=lambda record: (record["timestamp"], record["_id"]))


def test_the_same_seed_is_the_same_world_and_another_is_not(crowds):
    again, other = (next(people(1_100, seed).crowds()) for seed in (7, 8))
    assert list(again.records) == list(crowds[0].records)
    assert all((again.vectors[key] == crowds[0].vectors[key]).all() for key in again.vectors)
    assert list(other.records) != list(crowds[0].records)


def test_people_want_what_answers_their_intent(crowds):
    """Without that no channel but popularity would have anything to find."""
    world = people(1_100)
    intents_of = {campaign.campaign_id: campaign.intents for campaign in world.campaigns}
    shares = []
    for history in crowds[0].histories.values():
        wanted = [intents_of[record["campaign_id"]][0] for record in history if "campaign_id" in record]
        shares.append(max(wanted.count(intent) for intent in set(wanted)) / len(wanted))
    assert np.mean(shares) > 0.5
