"""A URL means the same to SQLAlchemy and to libpq."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from jobq.database.url import conninfo, parse_url


@pytest.mark.parametrize("name", ["two words", "a+b", "100 %", "a&b=c?"])
def test_a_parameter_reaches_libpq_as_it_was_written(name: str) -> None:
    url = make_url("postgresql://me@localhost/shop").update_query_dict({"application_name": name})
    assert conninfo_to_dict(conninfo(parse_url(url)))["application_name"] == name


def test_a_password_reaches_libpq_as_it_was_written() -> None:
    url = make_url("postgresql://me@localhost/shop").set(password="a +?%&@:/")
    assert conninfo_to_dict(conninfo(parse_url(url)))["password"] == "a +?%&@:/"


def test_server_options_with_a_space_are_understood(postgres_url: str) -> None:
    url = make_url(postgres_url).update_query_dict({"options": "-c search_path=jobq"})
    with psycopg.connect(conninfo(parse_url(url))) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ("jobq",)
