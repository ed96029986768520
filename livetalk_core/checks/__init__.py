"""Is this machine ready, and are the numbers right?"""
