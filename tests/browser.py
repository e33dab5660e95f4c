"""The system's Chromium, for tests of pages."""

import shutil

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
"""Its path; None where there is none, and the tests of pages are skipped."""
