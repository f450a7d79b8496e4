"""Who is held out: people who are offered what does well with everyone, to measure what the ranking is worth against. Pure."""

import hashlib
from dataclasses import dataclass

CONTROL = "engagement"
"""The channel that alone ranks for those who are held out."""
BUCKETS = 2**64


@dataclass(frozen=True, slots=True)
class Holdout:
    """How many are held out; with another salt it is others."""

    percent: float = 0.0
    salt: str = "holdout"

    def has(self, user_id: str) -> bool:
        """Whether this person is held out: the same for as long as the salt is, and who is stays so when the share grows."""
        digest = hashlib.sha256(f"{self.salt}\n{user_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.percent / 100 * BUCKETS
