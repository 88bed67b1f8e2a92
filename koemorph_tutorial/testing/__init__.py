"""The proof kit: what proves this library proves your own loop."""

from koemorph_tutorial.digests import digest
from koemorph_tutorial.recording import Recorder

from .certificate import Certificate, CertificateError, certify, certify_script
from .crash import Campaign, CrashTestError, Trial, crash_test, saved
from .trails import Difference

__all__ = ["Campaign", "Certificate", "CertificateError", "CrashTestError", "Difference", "Recorder", "Trial"]
__all__ += ["certify", "certify_script", "crash_test", "digest", "saved"]
