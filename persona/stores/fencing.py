"""What a store answers to a writer whose lease has passed to another. Who holds the lease is kept in `documents.leases`."""

from persona.errors import LeaseLost


def lease_lost() -> LeaseLost:
    """The error that ends a run which slept past its lease."""
    return LeaseLost(
        "this run's lease ran out, or another run took it: its process slept, or MongoDB was away for longer than a lease lasts",
        hint="Nothing is lost: what it had not marked is applied by the next run. `persona doctor` says whether something is amiss.",
    )
