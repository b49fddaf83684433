"""A machine or a URL → a line for each thing that can be wrong: passed, a warning, or failed and what to do.

plan.py says what is looked at; check.py runs it, each check in a process of its own, so that none can hang or
crash the rest. The service knows nothing of it.
"""

from orpheus.ops.doctor.plan import local_checks, remote_checks
from orpheus.ops.doctor.report import examine

__all__ = ["examine", "local_checks", "remote_checks"]
