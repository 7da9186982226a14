"""The heroes: which of their columns pages are filtered by, and what can be done with them."""

from hero_api.database.statements import Filter
from hero_api.models import Hero, HeroCreate, HeroPublic, HeroUpdate
from hero_api.storage import Storage

heroes: Storage[HeroCreate, HeroUpdate] = Storage(
    Hero,
    public=HeroPublic,
    filters={
        "name": Filter("name", "="),
        "age": Filter("age", "="),
        "min_age": Filter("age", ">="),
        "max_age": Filter("age", "<="),
    },
)
