"""The `mini` benchmark: a small generated world with validation images, training drawings and their captions."""
