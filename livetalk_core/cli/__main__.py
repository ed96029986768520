"""`python -m livetalk_core.cli`, and `livetalk` where it is installed."""

from livetalk_core.cli.end import run_to_end
from livetalk_core.cli.main import main


def run() -> None:
    run_to_end(main)


if __name__ == "__main__":
    run()
