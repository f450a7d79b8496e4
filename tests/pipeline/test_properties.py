"""However the same records are ordered and split into drops, every store holds the same in the end, and nothing of the way there."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.conftest import CAMPAIGNS, INTENTS, START, USERS, World

pytestmark = pytest.mark.slow

# ten minutes apart, so that what comes late joins conversations that were two, or comes between them
moments = st.integers(0, 30).map(lambda tens: START + 600 * tens)
said = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(USERS[:2]),
        "timestamp": moments,
        "message": st.sampled_from([*(f"about {name}" for name in INTENTS), "offer c 0 or offer c 1", "an Offer C_1"]),
    },
    optional={"campaign_id": st.sampled_from(CAMPAIGNS), "conversation_id": st.sampled_from(["k_1"]), "intent": st.just("given")},
)
done = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(USERS[:3]), "timestamp": moments, "campaign_id": st.sampled_from(CAMPAIGNS),
        "event": st.sampled_from(["click", "conversion", "dismiss", "unsubscribe"]), "value": st.sampled_from([0.5, 1.0]),
    }
)  # fmt: skip
histories = st.lists(st.one_of(said, said, done), min_size=1, max_size=16)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(records=histories, data=st.data())
def test_any_order_and_any_splitting_ends_in_the_same_stores(
    new_world: Callable[[], World], records: list[dict[str, Any]], data: st.DataObject
) -> None:
    records = [{**record, "message_id": f"m_{number}"} for number, record in enumerate(records)]
    at_once = new_world()
    at_once.load_catalogs()
    at_once.put(records)
    at_once.drain()
    at_once.agrees_with_the_truth()
    expected = at_once.contents()

    order = data.draw(st.permutations(records))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), min_size=1, max_size=2)))
    piecemeal = new_world()
    for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        piecemeal.put(order[start:end] + order[: data.draw(st.integers(0, 1))])  # some of it twice
        piecemeal.drain()
    piecemeal.load_catalogs()
    piecemeal.drain()
    piecemeal.drain(reapply=True)
    piecemeal.agrees_with_the_truth()
    assert piecemeal.contents() == expected
