from tests.shops import postgres_shop, sqlite_shop

__all__ = ["postgres_shop", "sqlite_shop"]
