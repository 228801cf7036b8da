"""Training what a method learns: psi of Talk2DINO."""
