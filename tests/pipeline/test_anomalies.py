"""What counts as unusual, against history or a limit."""

from datetime import UTC, datetime, timedelta

import numpy as np

from persona.pipeline import anomalies


def test_without_history_no_volume_is_unusual() -> None:
    assert anomalies.volume(1_000_000, [10, 10, 10, 10]).usual
    assert anomalies.volume(0, [10] * 20).usual


def test_a_volume_far_off_is_unusual_in_both_directions_however_regular_the_history() -> None:
    history = [1_000] * 10
    assert anomalies.volume(1_200, history).usual and anomalies.volume(900, history).usual
    assert not anomalies.volume(10_000, history).usual
    assert not anomalies.volume(50, history).usual
    assert anomalies.volume(10_000, [10, 100_000, 50, 20_000, 3_000]).usual


def test_shares_and_waits_keep_their_limits() -> None:
    assert anomalies.reject_share({"read": 0, "quarantined": 0}).usual
    assert anomalies.reject_share({"read": 10, "quarantined": 1}).usual
    assert not anomalies.reject_share({"read": 10, "quarantined": 2}).usual
    assert anomalies.share_without_intent(0, 0).usual
    assert not anomalies.share_without_intent(100, 5).usual
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert anomalies.oldest_wait(None, now).usual
    assert anomalies.oldest_wait(now - timedelta(minutes=59), now).usual
    assert not anomalies.oldest_wait(now - timedelta(minutes=61), now).usual


def test_drift_is_the_cosine_distance_to_earlier_runs() -> None:
    x, y = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    assert anomalies.centroid_drift(None, [x] * 9).usual
    assert anomalies.centroid_drift(y, [x] * 4).usual
    assert np.isclose(anomalies.centroid_drift(3 * x, [x] * 5).value, 0)
    assert np.isclose(anomalies.centroid_drift(y, [x] * 5).value, 1)
    assert not anomalies.centroid_drift(y, [x] * 5).usual
    assert anomalies.centroid_drift(0 * x, [x] * 5).value == 0
