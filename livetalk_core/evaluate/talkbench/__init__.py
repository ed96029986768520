"""TalkBench: the technical report's measures of talking videos, of any model and of any folder of videos."""
