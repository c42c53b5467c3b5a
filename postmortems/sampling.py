"""How it went over time: what a run measures of itself, several times a second."""

from __future__ import annotations

import logging
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from jobq import JobQueue
from jobq.prometheus import QueueCollector
from postmortems.scene import Process, Scene

SAMPLE_S = 0.25
SCRAPE_S = 1.0
SCRAPE_TIMEOUT_S = 0.5

# A queue that cannot be measured is a sample like any other here, and no news.
logging.getLogger("jobq.metrics").addHandler(logging.NullHandler())

Series = dict[str, list[float]]


class Every:
    """Calls something at a steady pace, on a thread, and raises at the end what it raised."""

    def __init__(self, period_s: float, look: Callable[[], None], name: str) -> None:
        self._period_s = period_s
        self._look = look
        self._is_over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name)

    def _run(self) -> None:
        due_s = time.monotonic()
        try:
            while not self._is_over.is_set():
                self._look()
                due_s += self._period_s
                self._is_over.wait(max(0.0, due_s - time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            self._thread.join()
        if self._error is not None:
            raise self._error


class Sampler:
    """The answers of some questions to the database, each by its name, at the same moments."""

    def __init__(self, scene: Scene, questions: Mapping[str, Callable[[], float]]) -> None:
        self._chronicle = scene.chronicle
        self._questions = questions
        self.series: Series = {"at_s": [], **{name: [] for name in questions}}

    def look(self) -> None:
        answers = {name: question() for name, question in self._questions.items()}
        self.series["at_s"].append(round(self._chronicle.now_s(), 2))
        for name, answer in answers.items():
            self.series[name].append(answer)


class Scraper:
    """What Prometheus would have got, once a second: from every worker, and of the queue.

    A frozen worker does not answer, and a database without connections does not either: then
    there is no sample, as there would be none in Prometheus.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._queue = JobQueue(scene.url)
        self._registry = CollectorRegistry()
        self._registry.register(QueueCollector(self._queue))
        self._urls: dict[str, str] = {}
        self._seen: dict[int, dict[str, float]] = {}
        """By the second at whose end it was known."""

    def look(self) -> None:
        processes = list(self._scene.processes)
        with ThreadPoolExecutor() as pool:
            texts = list(pool.map(self._of_worker, processes))
        sample = dict(_samples(generate_latest(self._registry).decode(), "queue"))
        for process, text in zip(processes, texts, strict=True):
            sample.update(_samples(text, process.name))
        self._seen[math.ceil(self._scene.chronicle.now_s())] = sample

    def _of_worker(self, process: Process) -> str:
        if process.name not in self._urls:
            ports = [line["port"] for line in process.log() if "port" in line]
            if not ports:
                return ""
            self._urls[process.name] = f"http://127.0.0.1:{ports[0]}/metrics"
        try:
            url = self._urls[process.name]
            with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT_S) as answer:  # noqa: S310
                return str(answer.read().decode())
        except (OSError, urllib.error.URLError):
            return ""

    def series(self, wanted: frozenset[str]) -> dict[str, str]:
        """The metrics of these names in promtool's notation, a value a second.

        Counters that never moved are left out: there is no increase in them.
        """
        names = sorted({name for sample in self._seen.values() for name in sample})
        at_s = range(max(self._seen) + 1)
        values = {name: [self._seen.get(s, {}).get(name) for s in at_s] for name in names}
        return {
            name: _noted(those)
            for name, those in values.items()
            if name.split("{")[0] in wanted
            and not (name.split("{")[0].endswith("_total") and len(set(those) - {None}) == 1)
        }

    def close(self) -> None:
        self._queue.close()


def _samples(text: str, instance: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {"instance": instance, **sample.labels}
            pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
            yield f"{sample.name}{{{pairs}}}", sample.value


def _noted(values: list[float | None]) -> str:
    """As promtool has it: `3x4` is 3 five times, and `_` no sample."""
    runs = [(value, len(list(same))) for value, same in groupby(values)]
    return " ".join(
        f"_x{count}" if value is None else f"{round(value, 3):g}x{count - 1}"
        for value, count in runs
    )


@contextmanager
def measured(
    scene: Scene, questions: Mapping[str, Callable[[], float]]
) -> Iterator[tuple[Sampler, Scraper]]:
    """Sample and scrape for as long as the block lasts."""
    sampler, scraper = Sampler(scene, questions), Scraper(scene)
    try:
        with (
            Every(SAMPLE_S, sampler.look, "sampler").running(),
            Every(SCRAPE_S, scraper.look, "scraper").running(),
        ):
            yield sampler, scraper
    finally:
        scraper.close()
