"""The synthetic talker: drawn people who speak, and whose true mouth is known. Data to train on and to test with."""
