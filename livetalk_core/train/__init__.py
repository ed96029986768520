"""Training: Stage 1, Stage 2, the VAE of a small model, and the data for them."""
