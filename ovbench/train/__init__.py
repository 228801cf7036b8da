"""Training of psi, the learned map of Talk2DINO."""
