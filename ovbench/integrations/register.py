"""Importing this module makes every method known to mmseg's ``MODELS``: for an mmengine config's ``custom_imports``."""

from ovbench.integrations.mmseg import register_all

register_all()
