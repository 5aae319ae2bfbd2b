"""Runs the command line: ``python -m vicinal``."""

from vicinal.cli import main

if __name__ == "__main__":
    main()
