from tests.shops import postgres_shop, shop, sqlite_shop

__all__ = ["postgres_shop", "shop", "sqlite_shop"]
