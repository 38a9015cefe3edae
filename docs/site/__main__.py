"""Builds the site into ``site/``, or serves it: ``python -m docs.site [serve]``."""

import subprocess
import sys
import time

from docs.site.build import build, write_pages
from docs.site.pages import ROOT, BrokenLink

_ADDRESS = "127.0.0.1:8000"
_LOOK_S = 0.5  # seconds between two checks for changed pages


def serve() -> int:
    """Serve the site until Ctrl-C; rebuild pages that change."""
    write_pages(ROOT)
    command = [sys.executable, "-m", "zensical", "serve", "--dev-addr", _ADDRESS]
    with subprocess.Popen(command, cwd=ROOT) as server:
        try:
            while server.poll() is None:
                time.sleep(_LOOK_S)
                try:
                    write_pages(ROOT)
                except BrokenLink as error:
                    print(error, file=sys.stderr)
        except KeyboardInterrupt:
            server.terminate()
    return server.returncode


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    if arguments == ["serve"]:
        return serve()
    if arguments:
        print("usage: python -m docs.site [serve]", file=sys.stderr)
        return 2
    try:
        built = build(ROOT)
    except BrokenLink as error:
        print(error, file=sys.stderr)
        return 1
    print(built.stdout + built.stderr, end="")
    return built.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
