"""The examples of docs/security.md run, and do what the page says."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet

from jobq import JobQueue, Unique
from jobq.testing import drain
from tests.docs.test_examples import examples, run_page

PAGE = "docs/security.md"


def test_the_page(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBQ_DATABASE_URL", database_url)
    key, new, hash_key = (Fernet.generate_key().decode() for _ in range(3))
    names: dict[str, Any] = {"JobQueue": JobQueue, "Unique": Unique, "__name__": "shop"}
    names |= {"key": key, "new": new, "hash_key": hash_key}
    *encrypting, rotated = examples(PAGE)
    run_page(PAGE, encrypting, names)
    app = names["app"]
    drain(app)
    assert names["job"].result(1) == "999 from DE89 3704"
    app.close()
    run_page(PAGE, [rotated], names)
    stored = names["job"].app.status(names["job"].id)
    names["job"].app.close()
    text = names["app"].encryption.unseal("arguments of task 'shop.pay'", stored.args)
    assert text == '{"iban":"DE89 3704","cents":999}'
