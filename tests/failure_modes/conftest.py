from tests.shops import parties, postgres_shop, server_shop, shop, sqlite_shop
from tests.worker.conftest import postgres_site, site

__all__ = [
    "parties",
    "postgres_shop",
    "postgres_site",
    "server_shop",
    "shop",
    "site",
    "sqlite_shop",
]
