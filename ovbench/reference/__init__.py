"""ReME's reference set (arXiv 2506.21233): segments with phrases that label them, built from images and captions."""
