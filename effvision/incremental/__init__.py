"""Any network made incremental: edit a picture, compute again only what changed.

    from effvision.incremental import make_incremental

    engine = make_incremental(generator.eval(), labels, mode="local")
    engine.update(labels)                # the full pass
    result = engine.update(edited)       # finds the change itself
    result.output, result.computed_fraction
    engine.undo(); engine.redo()
    print(engine.report)                 # what is computed how, and why

`engine` holds the sessions, `trace` and `lookup` turn a module into operations and rules, `rules` and `axes` say what an
operation does to a part of a picture, `blocks` chooses what is kept, `compute` and `costs` what is computed how, `limits` how
far a change is followed, `journal` undo, and `reference` the published engine's masks and blocks.
"""

from __future__ import annotations

from effvision.incremental.engine import IncrementalNetwork, Mode, Update, make_incremental
from effvision.incremental.reference import ReferenceOptions
from effvision.incremental.report import Report, Row

__all__ = ["IncrementalNetwork", "Mode", "ReferenceOptions", "Report", "Row", "Update", "make_incremental"]
