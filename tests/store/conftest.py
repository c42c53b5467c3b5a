from tests.shops import shop

__all__ = ["shop"]
