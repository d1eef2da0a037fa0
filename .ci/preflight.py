"""Say before anything is installed what this machine lacks, with the line that mends it. Called by the Makefile and CI.

    python3 .ci/preflight.py                    complain and exit with 1 if `make demo` or `make test` cannot work
    python3 .ci/preflight.py packages           print the Debian packages to install, nothing when all is there
    python3 .ci/preflight.py torch-index URL    print pip's arguments for PyTorch's CPU build, nothing when not needed

It runs on any Python 3, before the virtual environment exists; it installs nothing.
"""

import os
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)
REACH_TIMEOUT_S = 3.0


def python_problem():
    """Return what is wrong with this Python as (finding, remedy), or None."""
    if sys.version_info < OLDEST:
        return (
            "Python {}.{} is older than the 3.11 these commands are pinned for (the package itself runs on 3.10)".format(
                *sys.version_info[:2]
            ),
            "apt-get install python3.11 python3.11-venv, then add PYTHON=python3.11 to the make command",
        )
    return None


def venv_package():
    """Return the Debian package this Python lacks for making virtual environments, or None."""
    try:
        import ensurepip  # noqa: F401 - what Debian leaves out of its python3 package
        import venv  # noqa: F401
    except ImportError:
        if os.path.realpath(sys.executable).startswith("/usr/bin/python3."):
            return os.path.basename(os.path.realpath(sys.executable)) + "-venv"
        return "python3-venv"
    return None


def missing_libraries():
    """Return the system libraries OpenCV needs and this machine lacks, with their packages."""
    sys.path.insert(0, ROOT)
    from effvision.doctor import missing_libraries as find

    return find("cv2")


def complain():
    """Print every finding with its remedy; return the exit code."""
    problem = python_problem()
    if problem:
        print("error: {}\n  fix: {}".format(*problem), file=sys.stderr)
        return 1
    packages = []
    findings = []
    if venv_package():
        findings.append("this Python ({}) cannot make virtual environments".format(sys.executable))
        packages.append(venv_package())
    libraries = missing_libraries()
    if libraries:
        findings.append("OpenCV (opencv-python) needs system libraries that are missing: " + ", ".join(libraries))
        packages.extend(libraries.values())
    for finding in findings:
        print("error: " + finding, file=sys.stderr)
    if packages:
        print("  fix, as root on Debian or Ubuntu:", file=sys.stderr)
        print("      apt-get update", file=sys.stderr)
        print("      apt-get install --no-install-recommends " + " ".join(packages), file=sys.stderr)
    return 1 if findings else 0


def reaches(url):
    """Say whether `url` answers in time; a resolver without a network can block for much longer than asked."""
    answered = []

    def knock():
        import urllib.request

        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=REACH_TIMEOUT_S) as reply:
                answered.append(reply.status < 400)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(REACH_TIMEOUT_S)
    return answered == [True]


def torch_index(url):
    """Print the arguments that make pip take PyTorch's CPU build, and say on stderr what was decided."""
    if not url or not sys.platform.startswith("linux"):
        return 0  # elsewhere PyPI's build is the CPU one
    try:
        from importlib.metadata import version

        version("torch")
        return 0  # already here: pip keeps it if it satisfies the pin
    except ImportError:
        pass
    if reaches(url.rstrip("/") + "/torch/"):
        print("PyTorch: the CPU build, from " + url, file=sys.stderr)
        print("--extra-index-url " + url)
        return 0
    print(
        "PyTorch: {} did not answer within {:.0f} s; pip looks where it is set up to look.\n"
        "  On PyPI the Linux build is the one with CUDA, several GB. To take another place: make ... TORCH_INDEX=URL".format(
            url, REACH_TIMEOUT_S
        ),
        file=sys.stderr,
    )
    return 0


def main(arguments):
    """Run one of the three commands."""
    if arguments[:1] == ["packages"]:
        names = [venv_package(), *missing_libraries().values()]
        print(" ".join(name for name in names if name))
        return 0
    if arguments[:1] == ["torch-index"]:
        return torch_index(arguments[1] if len(arguments) > 1 else "")
    return complain()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
