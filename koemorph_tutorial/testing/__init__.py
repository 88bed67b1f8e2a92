"""The proof kit: what proves this library proves your own loop."""

from koemorph_tutorial.digests import digest
from koemorph_tutorial.recording import Recorder

from .bench import CrashTestError, saved
from .certificate import Certificate, certify, certify_script
from .crash import Campaign, Trial, crash_test
from .stops import CertificateError
from .trails import Difference

__all__ = ["Campaign", "Certificate", "CertificateError", "CrashTestError", "Difference", "Recorder", "Trial"]
__all__ += ["certify", "certify_script", "crash_test", "digest", "saved"]
