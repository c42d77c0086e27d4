"""Which models the engine trains: every module of torch.nn, and whole zoos of models.

Each is run as it is, in training and evaluation mode, beside torch alone. It works if its forward
pass is torch's to rounding, and its feedback is finite and reaches what it has to; where every part
is linear on each side of 0, Theorem 1 has to hold as well. What an engine refuses, it has to refuse
by name, and on purpose (:data:`~validation.coverage.records.REFUSED_ON_PURPOSE`).

The parts: :mod:`~validation.coverage.check` examines one model,
:mod:`~validation.coverage.modules`, :mod:`~validation.coverage.models` and
:mod:`~validation.coverage.families` say which, :mod:`~validation.coverage.suite` goes through them,
and :mod:`~validation.coverage.document` writes what was found. ``lfp-bench coverage`` runs it all.
"""
