"""Learning intents from what people's messages were said to mean: at moments that no drop chooses, and then for everybody at once."""

from functools import partial

from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.pipeline.labelling import labeller_of, lessons_in
from persona.pipeline.lease import Lease
from persona.stores.graph import Graph

LEARNED_BY = ("intents", "neo4j_graph")
"""The stages that are done anew with what was learned."""


def learn_given_intents(pipeline: Pipeline, graph: Graph, *, run_id: str) -> bool:
    """Learn from the given intents; return whether there was anything new, and with it new labels and a graph that has them.

    Whatever ends half-way is finished by the next run that drains: what is left to do waits in the ledger.
    """
    ours = f"{run_id} learns"  # the run has its stages already, and these are done a second time
    documents, threshold = pipeline.documents, pipeline.settings.intent_threshold
    with pipeline.recorded(run_id, "lessons") as count:
        with pipeline.lease(ours, "learning intents") as lease:
            lessons = lessons_in(documents)
            if lessons == documents.classifiers.lessons() and not _labels_are_behind(pipeline, lease):
                return False
            documents.ledger.reopen(["intents"], kinds=["drop"])
            lease.transaction(lambda session: documents.classifiers.set_lessons(lessons, session=session))
        pipeline.drain("intents", partial(sinks.label, threshold=threshold), run_id=ours)
        pipeline.drain("neo4j_graph", partial(sinks.link, graph=graph), run_id=ours)
        count(len(lessons))
        return True


def _labels_are_behind(pipeline: Pipeline, lease: Lease) -> bool:
    """Whether labels are of another classifier than the one in force, as where an erasure took a lesson away."""
    documents = pipeline.documents
    labeller = labeller_of(documents, lease, threshold=pipeline.settings.intent_threshold)
    return labeller is not None and labeller.version != documents.embeddings.label_version()
