"""What holds for all tests."""

import os

# Models here are tiny, and tests run side by side: threads of one test would only wait for those of another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
