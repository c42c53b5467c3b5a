from tests.shops import parties, postgres_shop, shop, sqlite_shop

__all__ = ["parties", "postgres_shop", "shop", "sqlite_shop"]
