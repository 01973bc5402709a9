"""From records to tables, statistics and figures. Never imports torch.

`analysis.load(STUDY)` gives a published study's data frames, `analysis.load_runs(DIR)`, or of several, those of runs.
"""

from analysis.studies import Study, load, load_runs

__all__ = ["Study", "load", "load_runs"]
