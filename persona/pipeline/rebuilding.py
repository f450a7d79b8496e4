"""Computing a projection anew from the truth, while it goes on answering and drops go on arriving.

The work is done in turns: a few seconds under the lease, then a pause in which whoever waits gets it. Milvus and the warehouse are
filled beside what is in use and swapped, the graph and the labels are put right in place. What is computed is in `sinks`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import structlog
from pymongo.client_session import ClientSession

from persona.errors import Busy, EmbeddingMismatch, LeaseLost, StoreRefused, StoreUnavailable
from persona.language.encoder import Encoder
from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline, Progress
from persona.pipeline.labelling import labeller_of, lessons_in
from persona.pipeline.lease import Lease
from persona.pipeline.stages import CODE_VERSIONS, UPSTREAM, downstream
from persona.stores.documents import Documents
from persona.stores.documents.leases import Holder
from persona.stores.opening import Stores
from persona.stores.vectors import VectorStore

TURN_SECONDS = 5.0
PAUSE_SECONDS = 1.0
PATIENCE_SECONDS = 3_600.0
"""How long a rebuild that is under way waits for its next turn: a large drop may take that long."""
FEW = 2_000
"""People who may be left for the last turn of a rebuild, which is not interrupted."""
PURPOSE = "rebuild"
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did."""

    asset: str
    users: int
    """People that were computed."""
    records: int
    """What was written for them."""
    removed: int
    """What was there and is not in the truth."""


def rebuild(
    asset: str,
    pipeline: Pipeline,
    stores: Stores,
    encoder: Encoder,
    *,
    run_id: str,
    progress: Progress = lambda what, done: None,
    lease: Lease | None = None,
) -> Rebuilt:
    """Compute what one of `REBUILDABLE` holds anew, with everything that is made of it alone; drops are applied in between.

    With a `lease` that the caller holds it is done in one go, and what waited for the asset is applied by it. One that was
    interrupted is begun afresh by the next call. `embeddings` are only set to be encoded anew: draining does it.
    Raises `Busy` when the first turn is not to be had in time, and `LeaseLost` when another run takes over.
    """
    with pipeline.recorded(run_id, f"{PURPOSE} {asset}") as count:
        work = _Rebuild(asset, pipeline, stores, encoder, run_id, progress, lease)
        REBUILDABLE[asset](work)
        count(work.records)
    try:
        stores.cache.clear()
    except (StoreUnavailable, StoreRefused) as error:  # answers expire by themselves
        log.warning("cache_not_cleared", run_id=run_id, error=error.message)
    return Rebuilt(asset, work.users, work.records, work.removed)


def gives_way(holder: Holder | None) -> bool:
    """Whether the lease is free, or held by one who gives it back within seconds."""
    return holder is None or holder.purpose.startswith(PURPOSE)


@dataclass
class _Rebuild:
    """One rebuild under way."""

    asset: str
    pipeline: Pipeline
    stores: Stores
    encoder: Encoder
    run_id: str
    progress: Progress
    lease: Lease | None
    """The caller's, who wants it done in one go."""
    users: int = 0
    records: int = 0
    removed: int = 0
    _token: int = field(default=0, init=False)

    @property
    def documents(self) -> Documents:
        return self.stores.documents

    @contextmanager
    def first_turn(self) -> Iterator[Lease]:
        """Hold the lease and become the run that rebuilds the asset."""
        with self.hold(wait_seconds=None) as lease:
            if before := self.documents.rebuilds.begin(self.asset, run_id=self.run_id, token=lease.token):
                log.warning("rebuild_taken_over", asset=self.asset, run_id=self.run_id, instead_of=before)
            self._token = lease.token
            yield lease

    @contextmanager
    def turn(self) -> Iterator[Lease]:
        """Hold the lease again. Raises `LeaseLost` where another run has taken the rebuild over."""
        with self.hold(wait_seconds=PATIENCE_SECONDS) as lease:
            if self.documents.rebuilds.run_of(self.asset) != self.run_id:
                raise LeaseLost(
                    f"another run has taken over the rebuild of {self.asset}", hint="Let it end; there is nothing to do here."
                )
            yield lease

    def end(self, lease: Lease) -> None:
        """Nothing is left to do for the asset."""
        ledger, asset, waiting = self.documents.ledger, self.asset, list[str]()
        if self.lease:  # nothing came in between: what waits now has been computed too
            waiting = [entry.id for entry in ledger.pending(asset, upstream=UPSTREAM[asset])]

        def end(session: ClientSession) -> None:
            version = CODE_VERSIONS[asset]
            ledger.mark(asset, waiting, run_id=self.run_id, token=lease.token, code_version=version, session=session)
            self.documents.rebuilds.end(asset, session=session)

        lease.transaction(end)

    def hold(self, *, wait_seconds: float | None) -> AbstractContextManager[Lease]:
        """The caller's lease, or one of our own."""
        if self.lease:
            return nullcontext(self.lease)
        return self.pipeline.lease(self.run_id, f"{PURPOSE} {self.asset}", wait_seconds=wait_seconds)

    def in_turns(self, step: Callable[[Lease], bool], last: Callable[[Lease], None] = lambda lease: None) -> None:
        """Call `step` turn by turn until it says that there is nothing more, then `last` in the same turn."""
        while True:
            with self.turn() as lease:
                until = time.monotonic() + TURN_SECONDS
                while step(lease):
                    lease.check()
                    if time.monotonic() > until:
                        break
                else:
                    last(lease)
                    return
            if not self.lease:
                time.sleep(PAUSE_SECONDS)

    def for_everybody(
        self, compute: Callable[[Lease, list[str]], int], last: Callable[[Lease], None], *, beside: bool = True
    ) -> None:
        """Compute all users in turns, then `last`.

        What is filled `beside` has missed the drops that were applied meanwhile: their users are computed once more before `last`,
        in turns too, until so few are left that they and `last` are done in one.
        """
        reached, since, late = "", self._token, list[str]()

        def work(lease: Lease, users: list[str]) -> None:
            self.records += compute(lease, users)
            self.users += len(users)
            self.progress(f"{self.asset}: users", self.users)

        def step(lease: Lease) -> bool:
            nonlocal reached
            users = self.documents.records.users_after(reached, limit=sinks.USERS)
            if not users:
                return False
            work(lease, users)
            reached = users[-1]
            return True

        def catch_up(lease: Lease) -> bool:
            nonlocal since, late
            few = False
            if not late:
                drops = self.documents.ledger.applied_since(self.asset, since)
                late, since = self.documents.records.users_of(drops) if drops else [], lease.token
                few = len(late) <= FEW
            while late:
                work(lease, late[: sinks.USERS])
                late = late[sinks.USERS :]
                if not few:
                    return True
                lease.check()
            return False

        if not beside:
            self.in_turns(step, last)
            return
        self.in_turns(step)
        self.in_turns(catch_up, last)


def _embeddings(rebuild: _Rebuild) -> None:
    """Forget the vectors once the model that makes the next ones has made one, and let everything wait for it."""
    documents, encoder = rebuild.documents, rebuild.encoder
    proof = encoder.encode(["hello"])
    if proof.shape != (1, encoder.dimension) or not np.isfinite(proof).all():
        raise EmbeddingMismatch(
            f"the model does not make vectors of {encoder.dimension} finite numbers", hint="Set another EMBEDDING_MODEL."
        )
    with rebuild.first_turn() as lease:
        # before anything is forgotten: if this ends here, the next run computes it again all the same
        documents.ledger.reopen([rebuild.asset, *downstream(rebuild.asset)])
        documents.rebuilds.end("milvus_collection")  # one that is under way has computed from the old vectors
        _drop_beside(documents, rebuild.stores.vectors)
        lease.check()
        documents.embeddings.begin_new_collections()
        documents.embeddings.forget_all()
        documents.conversations.forget_all()
        documents.embeddings.agree_on(encoder.fingerprint, encoder.dimension)
        documents.rebuilds.end(rebuild.asset)


def _intents(rebuild: _Rebuild) -> None:
    documents = rebuild.documents
    with rebuild.first_turn() as lease:
        lessons = lessons_in(documents)
        lease.transaction(lambda session: documents.classifiers.set_lessons(lessons, session=session))
    _mentions(rebuild)
    _labels(rebuild)
    rebuild.asset = "neo4j_graph"  # where both go
    _neo4j_graph(rebuild)


def _mentions(rebuild: _Rebuild) -> None:
    """Find them all anew; what was made of others waits to be made again."""
    documents, stored = rebuild.documents, rebuild.documents.embeddings
    version, outdated, done = "", list[str](), 0

    def step(lease: Lease) -> bool:
        nonlocal version, outdated, done
        finder = sinks.finder_of(documents)
        if version != finder.version:
            version, outdated, done = finder.version, sinks.drops_that_name_others(documents, lease, finder), 0
        if done == len(outdated):
            return False
        sinks.let_wait_for_mentions(documents, outdated)  # in each turn: in the pause before, some may have been applied
        sinks.find_mentions_in(documents, lease, finder, [outdated[done]])
        done += 1
        rebuild.progress("intents: drops whose mentions were amiss", done)
        return True

    def last(lease: Lease) -> None:
        for stray in stored.stray_mentions():
            rebuild.removed += lease.transaction(partial(stored.forget_mentions, stray))
        lease.transaction(lambda session: stored.set_mention_version(version, session=session))

    rebuild.in_turns(step, last)


def _labels(rebuild: _Rebuild) -> None:
    documents, threshold = rebuild.documents, rebuild.pipeline.settings.intent_threshold
    reached, version = "", ""

    def step(lease: Lease) -> bool:
        nonlocal reached, version
        labeller = labeller_of(documents, lease, threshold=threshold)
        if labeller is None:  # a catalog that waits to be applied: on its turn every text is labelled anew
            return False
        if version != labeller.version:
            reached, version = "", labeller.version
        vectors = documents.embeddings.after(reached, limit=sinks.TEXTS)
        if not vectors:
            return False
        rebuild.records += lease.transaction(partial(labeller.put_labels, documents, vectors))
        rebuild.progress("intents: texts", rebuild.records)
        reached = max(vectors)
        return True

    def last(lease: Lease) -> None:
        if labeller := labeller_of(documents, lease, threshold=threshold):
            stored, named = documents.embeddings, labeller.version
            for outdated in stored.outdated_labels(named):
                rebuild.removed += lease.transaction(partial(stored.forget_labels, outdated))
            lease.transaction(lambda session: stored.set_label_version(named, session=session))
        rebuild.end(lease)

    rebuild.in_turns(step, last)


def _milvus_collection(rebuild: _Rebuild) -> None:
    documents, vectors = rebuild.documents, rebuild.stores.vectors
    with rebuild.first_turn() as lease:
        model = documents.embeddings.model()
        _drop_beside(documents, vectors)
        if documents.embeddings.collections_in_use() != documents.embeddings.collections_to_fill():
            documents.rebuilds.end(rebuild.asset)
            raise Busy(
                "the vectors are being made anew with another model, beside those in use",
                hint="`persona materialize` brings it to its end; there is nothing to rebuild before.",
            )
        if model is None:  # nothing has been embedded, so nothing is to be found
            documents.rebuilds.end(rebuild.asset)
            return
        version = lease.transaction(lambda session: documents.embeddings.begin_beside(session=session))
        filled = vectors.at(version)
        filled.drop()  # what a truth that is gone may have left under this name
        filled.prepare(model[1], rows=documents.embeddings.count())

    def last(lease: Lease) -> None:
        rebuild.records += sinks.index_campaigns(documents, filled)
        filled.await_visible()
        lease.transaction(lambda session: documents.embeddings.use_beside(session=session))
        rebuild.end(lease)

    try:
        rebuild.for_everybody(lambda lease, users: sinks.index_users(documents, filled, users), last)
    except LeaseLost:  # who has been erased meanwhile may have been written once more
        if version not in (documents.embeddings.collections_in_use(), documents.embeddings.collections_to_fill()):
            filled.drop()
            documents.embeddings.forget_collections(version)
        raise
    with rebuild.hold(wait_seconds=PATIENCE_SECONDS):
        sinks.drop_retired_collections(documents, vectors)


def _neo4j_graph(rebuild: _Rebuild) -> None:
    documents, graph = rebuild.documents, rebuild.stores.graph
    reached = ""

    def sweep(lease: Lease) -> bool:
        nonlocal reached
        users = graph.users_after(reached, limit=sinks.USERS)
        strangers = set(users) - documents.records.known_among(users)
        rebuild.removed += graph.fenced(lease.token).delete_users(strangers)
        reached = users[-1] if users else reached
        return bool(users)

    def sweep_the_rest(lease: Lease) -> None:
        mine = graph.fenced(lease.token)
        known = {campaign.campaign_id for campaign in documents.catalog.campaigns()}
        rebuild.removed += mine.delete_campaigns(set(mine.campaign_ids()) - known) + mine.delete_lone_intents()
        rebuild.records += sinks.relate(lease, documents, graph)
        rebuild.end(lease)

    with rebuild.first_turn() as lease:
        rebuild.records += graph.fenced(lease.token).upsert_campaigns(documents.catalog.campaigns())
    rebuild.for_everybody(
        lambda lease, users: sinks.link_users(documents, graph.fenced(lease.token), users), lambda lease: None, beside=False
    )
    rebuild.in_turns(sweep, sweep_the_rest)


def _engagement_metrics(rebuild: _Rebuild) -> None:
    documents, warehouse = rebuild.documents, rebuild.stores.warehouse
    with rebuild.first_turn() as lease:
        warehouse.fenced(lease.token).begin_beside()

    def last(lease: Lease) -> None:
        warehouse.fenced(lease.token).use_beside()
        rebuild.end(lease)

    rebuild.for_everybody(lambda lease, users: sinks.count_users(documents, warehouse.fenced(lease.token).beside(), users), last)


def _drop_beside(documents: Documents, vectors: VectorStore) -> None:
    """Remove what a rebuild of the vectors that died has left."""
    if version := documents.embeddings.beside():
        vectors.at(version).drop()
        documents.embeddings.forget_collections(version)


REBUILDABLE: dict[str, Callable[[_Rebuild], None]] = {
    "embeddings": _embeddings,
    "intents": _intents,
    "milvus_collection": _milvus_collection,
    "neo4j_graph": _neo4j_graph,
    "engagement_metrics": _engagement_metrics,
}
