"""Address spaces as people look at them: one artefact, which `capture` takes, and what is made of it."""

from stead.seeing.capture import capture, merge
from stead.seeing.publishing import publish
from stead.seeing.schema import NoSnapshot, check, schema

__all__ = ["NoSnapshot", "capture", "check", "merge", "publish", "schema"]
