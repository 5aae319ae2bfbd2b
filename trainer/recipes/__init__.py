"""Runs that were really made, one file each, with command, score, seconds, machine and date."""
