"""Both stages of training, and the data for them."""
