"""``python -m rlcore``."""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the working folder, whose files would shadow the standard library; it is searched last instead

from rlcore.cli import main

main()
