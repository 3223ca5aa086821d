"""`python -m covalent_sshtiming` is the `covalent-sshtiming` command."""

from __future__ import annotations

from covalent_sshtiming.cli import main

if __name__ == "__main__":
    main(prog_name="covalent-sshtiming")
