"""Comparison of methods with their official implementation, stage by stage, on recorded cases."""
