#!/bin/sh
# Puts Caddy binaries into .tools/ at the root of this repository, for the tests beside Debian's own:
#
#   envoy/http/fetch-caddy.sh           the pinned version
#   envoy/http/fetch-caddy.sh 2.10.2    these versions
#
# Result: .tools/caddy-<version>/caddy, built from source by `go install`, because no package registry has it as a binary.
# The first build takes two minutes on two cores. A version that is already here costs nothing.
set -eu

pinned=2.11.9
tools=$(cd "$(dirname "$0")/../.." && pwd)/.tools
work=

cleanup() {
  if [ -n "$work" ]; then rm -rf "$work"; fi
}
trap cleanup EXIT
# A signal must end the script, not only the command that it hit; EXIT then cleans up.
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

if [ $# -eq 0 ]; then set -- "$pinned"; fi
for version in "$@"; do
  case $version in
    '' | *[!0-9.]*) echo "envoy/http/fetch-caddy.sh: \"$version\" is not a version such as $pinned" >&2; exit 2 ;;
  esac
  if [ -x "$tools/caddy-$version/caddy" ]; then continue; fi
  mkdir -p "$tools" && work=$(mktemp -d "$tools/.caddy.XXXXXX")
  echo "envoy/http/fetch-caddy.sh: building Caddy $version" >&2
  # -mod=mod: GOFLAGS of this machine may ask for another, which only a main module has.
  GOBIN=$work CGO_ENABLED=0 GOFLAGS=-mod=mod go install -ldflags='-s -w' "github.com/caddyserver/caddy/v2/cmd/caddy@v$version"
  # The rename comes last and within one file system: whoever sees the name sees the whole binary.
  mkdir -p "$tools/caddy-$version" && mv -f "$work/caddy" "$tools/caddy-$version/caddy"
  rm -rf "$work"
  work=
done
