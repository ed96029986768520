"""Several processes make one stream: parallelism put on from outside, the models know nothing of it."""
