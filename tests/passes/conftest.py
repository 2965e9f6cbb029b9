"""Property tests draw the same examples in every run, and take the time they need."""

from hypothesis import settings

settings.register_profile("lissom", derandomize=True, deadline=None)
settings.load_profile("lissom")
