"""The sandbox as a child of `imagegate serve --with-sandbox`: on a free port, and gone when its parent is.

Its arguments are the previews to accept, as `rules.allow_previews` writes them.
"""

import sys

from proxy.sandbox import SandboxOptions, serve

if __name__ == "__main__":
    sys.exit(serve(SandboxOptions(port=0, allow_previews=tuple(sys.argv[1:])), leave_with_input=True))
