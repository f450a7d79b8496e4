"""What an evaluation needs of the stores: the log of everything, the generation in force, the limits that are set. Only reads."""

from concurrent.futures import ThreadPoolExecutor

from persona.evaluation.gate import Limits
from persona.evaluation.replay import Log
from persona.ranking.model import RankingModel
from persona.settings import Settings
from persona.stores.documents import Documents
from persona.stores.documents.embeddings import text_hash


def limits_of(settings: Settings) -> Limits:
    """What a model may lose, as the settings say."""
    return Limits(margin=settings.ranking_margin, jump=settings.ranking_jump)


def in_force_of(documents: Documents) -> tuple[str, RankingModel] | None:
    """The id and the model of the generation in force."""
    found = documents.generations.in_force()
    return (found[0], RankingModel.model_validate(found[1])) if found else None


def read_log(documents: Documents, *, words: bool = False, fitted_on: str = "") -> Log:
    """Everything that the truth holds of people and campaigns; with `words`, what people said too.

    Where the model that was `fitted_on` this state was fitted in this process, its records are not read again.
    """
    kept = documents.records.handed_on(fitted_on)
    with ThreadPoolExecutor(thread_name_prefix="read-log") as reading:  # the server is waited for most of the time
        records = reading.submit(documents.records.replayable, words=words) if kept is None else None
        vectors = reading.submit(documents.embeddings.get)
        inferred = reading.submit(documents.embeddings.labels)
        named = reading.submit(documents.embeddings.mentions)
        openings = reading.submit(documents.conversations.everything)
    known = vectors.result()
    catalogue = {campaign.campaign_id: campaign for campaign in documents.catalog.campaigns()}
    of_campaigns = {campaign: text_hash(entry.text) for campaign, entry in catalogue.items() if entry.text}
    return Log(
        records.result() if records else kept,
        vectors=known,
        inferred=inferred.result(),
        named=named.result(),
        openings=openings.result(),
        catalogue=catalogue,
        campaign_vectors={campaign: known[text] for campaign, text in of_campaigns.items() if text in known},
    )
