"""The tests. No example of Hypothesis's has a deadline: nothing here is timed."""

from hypothesis import settings

settings.register_profile("jobq", deadline=None)
settings.load_profile("jobq")
