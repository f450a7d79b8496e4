"""Learning intents from what people's messages were said to mean: at moments that no drop chooses, and then for everybody at once."""

from functools import partial

from persona.pipeline import sinks
from persona.pipeline.draining import Pipeline
from persona.pipeline.labelling import lessons_in
from persona.stores.graph import Graph


def learn_given_intents(pipeline: Pipeline, graph: Graph, *, run_id: str) -> bool:
    """Learn from the given intents; return whether there was anything new, and with it new labels and a graph that has them.

    Whatever ends half-way is finished by the next run that drains: what is left to do waits in the ledger.
    """
    ours = f"{run_id} learns"  # the run has its stages already, and these are done a second time
    documents = pipeline.documents
    with pipeline.lease(ours, "learning intents") as lease:
        lessons = lessons_in(documents)
        if lessons == documents.classifiers.lessons():
            return False
        documents.ledger.reopen(["intents"], kinds=["drop"])
        lease.transaction(lambda session: documents.classifiers.set_lessons(lessons, session=session))
    pipeline.drain("intents", partial(sinks.label, threshold=pipeline.settings.intent_threshold), run_id=ours)
    pipeline.drain("neo4j_graph", partial(sinks.link, graph=graph), run_id=ours)
    return True
