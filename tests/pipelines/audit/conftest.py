"""The settings that made-up texts (``tiny.written``) are audited by."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backdoor_pipeline.modelling.bundle import ModelBundle
from backdoor_pipeline.pipelines.audit.params import AuditParams


@pytest.fixture(scope="session")
def audit(make_parameters) -> AuditParams:
    """The settings of ``conf/base``, for vectors of a tiny encoder."""
    return make_parameters(**{"audit.components": 8}).audit


@pytest.fixture(scope="session")
def encoder(base_model: Callable[[str], ModelBundle]) -> ModelBundle:
    """A tiny encoder, whose word vectors are random."""
    return base_model("bert")
