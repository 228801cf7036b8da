"""ovbench evaluates open-vocabulary semantic segmentation methods. Importing it loads neither torch nor mmengine."""

__version__ = "0.1.0"
