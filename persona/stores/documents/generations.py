"""Ranking models: the candidate that was fitted last, those that were published, and which is in force. What is in one: `ranking`."""

from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores.documents._errors import translated


@translated
class Generations:
    """Fitted models by their id; at most one is in force."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._generations: Collection[dict[str, Any]] = database["generations"]
        self._state: Collection[dict[str, Any]] = database["state"]
        self._reports: Collection[dict[str, Any]] = database["reports"]

    def put_candidate(self, model: dict[str, Any]) -> None:
        """Keep the model that was fitted last, until it is published or the next one takes its place."""
        self._state.replace_one({"_id": "candidate"}, {"_id": "candidate", "model": model}, upsert=True)

    def candidate(self) -> dict[str, Any] | None:
        """The model that was fitted last."""
        found = self._state.find_one({"_id": "candidate"})
        return found["model"] if found else None

    def publish(self, generation: str, model: dict[str, Any]) -> None:
        """Store the model under this id and put it in force."""
        self._generations.replace_one({"_id": generation}, {"_id": generation, "model": model}, upsert=True)
        self._state.replace_one({"_id": "generation"}, {"_id": "generation", "generation": generation}, upsert=True)

    def in_force_id(self) -> str | None:
        """The id of the generation that serves."""
        found = self._state.find_one({"_id": "generation"})
        return found["generation"] if found else None

    def in_force(self) -> tuple[str, dict[str, Any]] | None:
        """The generation that serves: its id and its model."""
        generation = self.in_force_id()
        found = self._generations.find_one({"_id": generation}) if generation else None
        return (found["_id"], found["model"]) if found else None

    # -- how they were judged ---------------------------------------------------------------------------------------------

    def put_report(self, fingerprint: str, report: dict[str, Any]) -> None:
        """Keep the evaluation of the model with this fingerprint; those of models that were not published go."""
        self._reports.replace_one({"_id": fingerprint}, {"_id": fingerprint, "report": report}, upsert=True)
        kept = [fingerprint, *self._generations.distinct("model.fingerprint")]
        self._reports.delete_many({"_id": {"$nin": kept}})

    def report(self, fingerprint: str) -> dict[str, Any] | None:
        """The evaluation of the model with this fingerprint."""
        found = self._reports.find_one({"_id": fingerprint})
        return found["report"] if found else None
