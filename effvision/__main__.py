"""`python -m effvision`: the command line."""

from effvision.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
