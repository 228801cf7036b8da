"""Settings of a run: settings files, suites and names of backbones."""

PROTOCOLS = ("paper", "common")
