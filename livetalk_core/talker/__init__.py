"""The synthetic talker: drawn people who speak, with known mouth shapes. Data for training and tests."""
