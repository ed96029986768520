"""Training: data, stages, and the synthetic talker that is data and test oracle in one."""
