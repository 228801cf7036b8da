"""Names of the counts that a ledger has if they were asked for; without numpy, for commands that only check names."""

EXTRA = ("boundary", "size", "calibration")
