"""The `mini` benchmark: a small drawn world, its validation images, its training scenes and their captions."""
