"""What is loaded to stay costs no later collection anything, and collections are few."""

import gc

from serving.memory import collect_seldom, keep_what_there_is


def test_what_there_is_is_left_out_of_later_collections() -> None:
    stays = [[]]  # type: ignore[var-annotated]
    try:
        keep_what_there_is()
        assert not any(found is stays for found in gc.get_objects())
    finally:
        gc.unfreeze()
    assert any(found is stays for found in gc.get_objects())


def test_an_answers_objects_start_no_collection() -> None:
    before = gc.get_threshold()
    try:
        collect_seldom()
        gc.collect()
        collections = gc.get_stats()[0]["collections"]
        kept = [[] for _ in range(10_000)]  # type: ignore[var-annotated]
        assert gc.get_stats()[0]["collections"] == collections and len(kept) == 10_000
    finally:
        gc.set_threshold(*before)
