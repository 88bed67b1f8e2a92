"""The proof kit: what proves this library proves your own loop."""

from .crash import Campaign, CrashTestError, Trial, crash_test, saved
from .digests import digest

__all__ = ["Campaign", "CrashTestError", "Trial", "crash_test", "digest", "saved"]
