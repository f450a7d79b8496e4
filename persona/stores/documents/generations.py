"""Ranking models: the candidate that was fitted last, those that were published, and which is in force. What is in one: `ranking`."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database

from persona.stores.documents._errors import translated


@dataclass(frozen=True, slots=True)
class Generation:
    """A published model."""

    id: str
    model: dict[str, Any]
    at: datetime | None
    """When it was published; None where that was not kept yet."""
    reason: str
    """Why, in words."""
    withdrawn: bool
    """Whether it was rolled back, and not put in force again since."""


@translated
class Generations:
    """Fitted models by their id; at most one is in force."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._generations: Collection[dict[str, Any]] = database["generations"]
        self._state: Collection[dict[str, Any]] = database["state"]
        self._reports: Collection[dict[str, Any]] = database["reports"]

    # -- the candidate ----------------------------------------------------------------------------------------------------

    def put_candidate(self, model: dict[str, Any]) -> None:
        """Keep the model that was fitted last, until the next one takes its place."""
        self._state.replace_one({"_id": "candidate"}, {"_id": "candidate", "model": model}, upsert=True)

    def candidate(self) -> dict[str, Any] | None:
        """The model that was fitted last."""
        found = self._state.find_one({"_id": "candidate"})
        return found["model"] if found else None

    def refuse_candidate(self, reason: str) -> None:
        """Keep why the candidate was not published."""
        self._state.update_one({"_id": "candidate"}, {"$set": {"refused": reason}})

    def refusal(self) -> str | None:
        """Why the candidate was not published; None where it was, or nobody has decided."""
        found = self._state.find_one({"_id": "candidate"}, {"refused": 1})
        return found.get("refused") if found else None

    # -- what is published ------------------------------------------------------------------------------------------------

    def publish(self, generation: str, model: dict[str, Any], *, reason: str = "", session: ClientSession | None = None) -> None:
        """Store the model under this id and put it in force."""
        document = {"_id": generation, "model": model, "at": datetime.now(UTC), "reason": reason}
        self._generations.replace_one({"_id": generation}, document, upsert=True, session=session)
        self.put_in_force(generation, session=session)

    def put_in_force(self, generation: str, *, session: ClientSession | None = None) -> None:
        """Let a published generation serve; the one that does so far is what `roll_back` returns to."""
        state = self._in_force_state(session)
        before = [*state.get("before", ()), *([state["generation"]] if state else ())]
        self._serve(generation, [other for other in before if other != generation], session)
        self._generations.update_one({"_id": generation}, {"$unset": {"withdrawn": ""}}, session=session)

    def roll_back(self, *, session: ClientSession | None = None) -> None:
        """Withdraw the generation in force and let the one serve again that did before; there has to be one: see `former`."""
        state = self._in_force_state(session)
        *before, former = state["before"]
        self._serve(former, before, session)
        self._generations.update_one({"_id": state["generation"]}, {"$set": {"withdrawn": True}}, session=session)

    def former(self) -> str | None:
        """The generation to which `roll_back` returns."""
        before = self._in_force_state().get("before")
        return before[-1] if before else None

    def in_force_id(self) -> str | None:
        """The id of the generation that serves."""
        generation: str | None = self._in_force_state().get("generation")
        return generation

    def in_force(self) -> tuple[str, dict[str, Any]] | None:
        """The generation that serves: its id and its model."""
        generation = self.in_force_id()
        found = self._generations.find_one({"_id": generation}) if generation else None
        return (found["_id"], found["model"]) if found else None

    def get(self, generation: str) -> Generation | None:
        """A published generation."""
        found = self._generations.find_one({"_id": generation})
        return _generation(found) if found else None

    def all(self) -> list[Generation]:
        """Every generation that is kept, newest first."""
        return [_generation(found) for found in self._generations.find().sort("_id", -1)]

    def forget_old(self, *, keep: int, session: ClientSession | None = None) -> None:
        """Remove the published generations but for the newest so many, and the one in force."""
        ids = [found["_id"] for found in self._generations.find({}, {"_id": 1}, session=session).sort("_id", -1)]
        old = set(ids[keep:]) - {self._in_force_state(session).get("generation")}
        self._generations.delete_many({"_id": {"$in": sorted(old)}}, session=session)
        self._state.update_one({"_id": "generation"}, {"$pull": {"before": {"$in": sorted(old)}}}, session=session)

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

    # -- the fingerprints of their models ---------------------------------------------------------------------------------

    def fingerprint_of(self, generation: str) -> str | None:
        """Of a published generation's model."""
        found = self._generations.find_one({"_id": generation}, {"model.fingerprint": 1})
        return found["model"].get("fingerprint") if found else None

    def fingerprints(self) -> set[str]:
        """Of every model that is kept, the candidate included."""
        return {
            *self._generations.distinct("model.fingerprint"),
            *self._state.distinct("model.fingerprint", {"_id": "candidate"}),
        }

    def withdrawn(self) -> set[str]:
        """Of the models that were rolled back."""
        return set(self._generations.distinct("model.fingerprint", {"withdrawn": True}))

    def _in_force_state(self, session: ClientSession | None = None) -> dict[str, Any]:
        return self._state.find_one({"_id": "generation"}, session=session) or {}

    def _serve(self, generation: str, before: list[str], session: ClientSession | None) -> None:
        document = {"_id": "generation", "generation": generation, "before": before}
        self._state.replace_one({"_id": "generation"}, document, upsert=True, session=session)


def _generation(found: dict[str, Any]) -> Generation:
    return Generation(found["_id"], found["model"], found.get("at"), found.get("reason", ""), found.get("withdrawn", False))
