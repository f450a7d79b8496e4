"""What an evaluation needs of the stores: the log of everything, the generation in force, the limits that are set. Only reads."""

from persona.evaluation.gate import Limits
from persona.evaluation.replay import Log
from persona.pipeline.reading import read_ahead
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


def read_log(documents: Documents, *, words: bool = False) -> Log:
    """Everything that the truth holds of people and campaigns; with `words`, what people said too."""
    records = documents.records
    catalogue = {campaign.campaign_id: campaign for campaign in documents.catalog.campaigns()}
    texts = {campaign: text_hash(entry.text) for campaign, entry in catalogue.items() if entry.text}
    vectors = documents.embeddings.get({*records.text_hashes(), *texts.values()})
    return Log(
        read_ahead(records.replayable(words=words)),
        vectors=vectors,
        inferred=documents.embeddings.labels(vectors),
        named=documents.embeddings.mentions(vectors),
        openings=documents.conversations.everything(),
        catalogue=catalogue,
        campaign_vectors={campaign: vectors[key] for campaign, key in texts.items() if key in vectors},
    )
