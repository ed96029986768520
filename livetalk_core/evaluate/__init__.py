"""How well a model talks: on drawn people whose true mouth is known, and by the technical report's measures on any videos."""
