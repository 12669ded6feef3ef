"""What holds for all tests."""

import os
import tempfile

from hypothesis import settings

# Models here are tiny, and tests run side by side: threads of one test would only wait for those of another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Code that a page or test trusts is trusted in no other run of the tests.
os.environ["SFUMATO_HOME"] = tempfile.mkdtemp(prefix="sfumato-tests-")

# A law says nothing of the clock, and a machine that does other work as well would break it.
settings.register_profile("sfumato", deadline=None)
settings.load_profile("sfumato")

# Benchmarks are programs that `make bench` runs; they import each other by their file names.
collect_ignore_glob = ["benchmarks/*"]
