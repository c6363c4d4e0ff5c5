#!/bin/sh
# Install a peer in an environment of its own: sh bench/peers/install.sh NAME makes build/peers/NAME.
# Python 3.11 is what all of them run on; name another interpreter in PYTHON.
set -eu
name=$1
here=$(cd "$(dirname "$0")" && pwd)
target=$here/../../build/peers/$name
"${PYTHON:-python3.11}" -m venv --clear "$target"
# The lists are complete and were tried, so pip need not resolve anything (--no-deps).
"$target/bin/python" -m pip install --quiet --no-deps --requirement "$here/$name/requirements.txt"
echo "installed in build/peers/$name; now: python -m bench.peers (see its --help)"
