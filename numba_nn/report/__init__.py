"""Reports: where a model's training step spends time and memory, and how fast every layer is beside the reference.

profile      one step of a model, phase by phase and layer by layer
layers       ``numba-nn report``: every layer by itself, before, after and now
measuring    what `layers` runs, on this revision and on others
"""

from numba_nn.report.profile import LayerRow, Phase, Profile, layer_label, profile, render_markdown
from numba_nn.tables import markdown_table, median_ms

__all__ = ["LayerRow", "Phase", "Profile", "layer_label", "markdown_table", "median_ms", "profile", "render_markdown"]
