"""The watermark of a stream that the service sends."""

from __future__ import annotations

from livetalk_core.provenance.manifest import id_text
from livetalk_core.provenance.watermark import Watermark, new_id
from livetalk_core.serve.limits import ClientLimits


def new_mark(limits: ClientLimits) -> tuple[Watermark | None, dict[str, str]]:
    """A stream's own watermark and what its client is told of it; None and nothing if streams are not marked."""
    if not limits.watermark:
        return None, {}
    mark = Watermark(new_id())
    return mark, {"watermark": id_text(mark.mark_id)}
