"""How many wrong keys an address may try. In this process's memory, so that it holds whatever is down; which key is right is `auth`'s."""

import ipaddress
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

FAILURES = RateLimitItemPerMinute(20)
REMEMBERED = 10_000
IPV6_NETWORK_BITS = 64
"""One subscriber has as many addresses as they like, all in one such network."""


class Attempts:
    """Failed attempts by address.

    From an address that has failed too often no key is judged any more, so that trying them tells nothing; but for keys that have
    come from there before: behind a proxy or a shared address, one stranger must not lock everybody out.
    """

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._seen: set[tuple[str, str]] = set()

    def let_in(self, address: str, name: str) -> bool:
        """Whether the right key of this name may be told from a wrong one here."""
        if (address, name) in self._seen:
            return True
        if self.too_many(address):
            return False
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()
        self._seen.add((address, name))
        return True

    def too_many(self, address: str) -> bool:
        """Whether so many keys from this address were wrong that no more are judged."""
        return not self._limiter.test(FAILURES, _network(address))

    def failed(self, address: str) -> None:
        """Take down that a key from this address was wrong."""
        self._limiter.hit(FAILURES, _network(address))

    def seconds_left(self, address: str) -> int:
        """When the next key from this address is judged."""
        return max(math.ceil(self._limiter.get_window_stats(FAILURES, _network(address)).reset_time - time.time()), 1)


def _network(host: str) -> str:
    """What is counted as one address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a socket in the file system has no address
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address.packed, IPV6_NETWORK_BITS), strict=False))
