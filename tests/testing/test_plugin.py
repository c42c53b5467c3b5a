"""The plugin, as a project that has jobq installed meets it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import jobq
from tests.conftest import ADMIN_URL_VARIABLE

pytest_plugins = ("pytester",)

BOUND_S = 60.0

SHOP = """
from sqlalchemy.orm import Session
from sqlalchemy import text
from jobq import JobQueue

app = JobQueue("postgresql://127.0.0.1:1/production")
billing = JobQueue("postgresql://127.0.0.1:1/production", schema="billing")


@app.task
def charge(db: Session, order_id: int) -> None:
    db.execute(text("INSERT INTO ledger VALUES (:id)"), {"id": order_id})


@billing.task
def note() -> None: ...
"""

TESTS = """
import pytest
from sqlalchemy import create_engine, text
from jobq import State
from jobq.testing import drain, interrupt
from shop import app as the_app, billing, charge, note


@pytest.fixture
def engine(jobq_database_url):
    engine = create_engine(jobq_database_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ledger (order_id bigint)"))
    yield engine
    engine.dispose()


@pytest.fixture
def app(jobq_on, engine):
    return jobq_on(the_app)


def test_what_the_tests_run_on(jobq_database_url, pytestconfig):
    given = pytestconfig.getoption("--jobq-database")
    assert jobq_database_url.startswith("postgresql" if given else "sqlite")


def charged(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT order_id FROM ledger")).scalars().all()


@pytest.mark.parametrize("order_id", [7, 8])
def test_a_database_for_each_test(app, engine, order_id):
    assert charge.enqueue(order_id=order_id).id == 1
    assert [one.state for one in drain(app)] == [State.DONE]
    assert charged(engine) == [order_id]


def test_each_interruption(app, engine, jobq_interruption):
    interrupt(app, charge.request(order_id=7), jobq_interruption)
    assert charged(engine) == [7]


def test_an_app_with_a_schema_of_its_own(jobq_on):
    assert jobq_on(billing) is billing
    note.enqueue()
    assert len(drain(billing)) == 1


def test_afterwards_the_app_is_where_it_was():
    assert the_app.url.database == "production"
"""


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_tests_of_an_app(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    pytester.makepyfile(shop=SHOP, test_shop=TESTS)
    pytester.makeini("[pytest]\nfilterwarnings = error\njobq_database = sqlite")
    options = ["-p", "jobq.testing.plugin", "-v"]
    if backend == "postgresql":  # the command line rules over the ini file
        options.append(f"--jobq-database={os.environ[ADMIN_URL_VARIABLE]}")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the others take as long again

    ran = pytester.runpytest_subprocess(*options, timeout=BOUND_S)

    ran.assert_outcomes(passed=9)
    ran.stdout.fnmatch_lines(["*test_each_interruption[[]killed_inside_effect] PASSED*"])


def test_it_costs_nothing_where_it_is_not_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert "jobq.testing.plugin" in sys.modules
            assert not {"sqlalchemy", "psycopg", "jobq.client"} & set(sys.modules)
        """
    )

    ran = pytester.runpytest_subprocess(timeout=BOUND_S)

    ran.assert_outcomes(passed=1)


def test_nothing_else_needs_pytest() -> None:
    package = Path(jobq.__file__).parent
    sources = {path: path.read_text() for path in package.rglob("*.py")}

    assert [
        path.relative_to(package).as_posix() for path in sources if "import pytest" in sources[path]
    ] == ["testing/plugin.py"]
