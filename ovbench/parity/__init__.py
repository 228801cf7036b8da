"""Comparing a method with the official implementation, stage by stage, on recorded cases."""
