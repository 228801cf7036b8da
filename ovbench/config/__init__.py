"""What a run does, as data: settings files, suites and names of backbones."""

PROTOCOLS = ("paper", "common")
