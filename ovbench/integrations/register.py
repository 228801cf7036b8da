"""Register all methods in mmseg's ``MODELS`` on import, for ``custom_imports`` of an mmengine config."""

from ovbench.integrations.mmseg import register_all

register_all()
