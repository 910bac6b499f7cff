#!/bin/sh
# Tries to get past Tollgate without a key, and says what got through:
#
#   k8s/try-bypass.sh http://GATEWAY/v1/orders api.example.com
#
# The URL is one that answers with 200 when the request has a key, at the address of the gateway; or at that of the
# application, which nobody but the gateway should reach. After it, the host that clients name, if it is another than
# the URL's. It needs sh and curl, so it runs in a pod as well:
#
#   kubectl run try-bypass --rm --stdin --quiet --restart=Never --image=curlimages/curl:8.16.0 --command -- sh -s -- URL HOST <k8s/try-bypass.sh
#
# Each line is the answer's status, 000 for none, and what was tried. It fails if one is not a refusal: 000, 400, 401,
# 403, 404, 405, 421, 426, 429, 431, 501 or 503, or a grpc-status that is not 0.
set -u

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo 'usage: try-bypass.sh URL [HOST]' >&2
  exit 2
fi
url=$1
origin=$(printf %s "$url" | sed 's#^\([a-z]*://[^/]*\).*#\1#')
path=${url#"$origin"}
path=${path:-/}
host=${2:-$(printf %s "$origin" | sed 's#^[a-z]*://##')}
passed=0
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# try WHAT CURL-ARGUMENT…
try() {
  what=$1
  shift
  status=$(curl --silent --insecure --output /dev/null --dump-header "$answer" --max-time 5 --path-as-is --header "Host: $host" --write-out '%{http_code}' "$@")
  case ${status:-000} in
    000 | 400 | 401 | 403 | 404 | 405 | 421 | 426 | 429 | 431 | 501 | 503) ;;
    *)
      if ! grep -qi '^grpc-status: *[1-9]' "$answer"; then
        what="PASSED: $what"
        passed=$((passed + 1))
      fi
      ;;
  esac
  printf '%s  %s\n' "${status:-000}" "$what"
}

try 'no key' "$origin$path"
try 'a key that nobody has' --header 'Authorization: Bearer nobody' --header 'X-API-Key: nobody' "$origin$path"
try 'an empty key' --header 'Authorization: Bearer ' --header 'X-API-Key;' "$origin$path"
try 'a key in the query' "$origin$path?api_key=nobody"
for method in HEAD OPTIONS POST PUT DELETE PATCH TRACE; do
  case $method in
    HEAD) try HEAD --head "$origin$path" ;;
    *) try "$method" --request "$method" "$origin$path" ;;
  esac
done
try 'headers that only Tollgate and Envoy may say' --header 'X-Consumer-ID: admin' --header 'X-Consumer-Username: admin' \
  --header 'X-Authenticated-Scope: admin' --header 'X-Envoy-Auth-Failure-Mode-Allowed: true' "$origin$path"
try 'headers with underscores' --header 'x_consumer_id: admin' --header 'x_envoy_auth_failure_mode_allowed: true' "$origin$path"
try 'an address of its own' --header 'X-Forwarded-For: 127.0.0.1' --header 'X-Envoy-External-Address: 127.0.0.1' --header 'X-Envoy-Internal: true' "$origin$path"
try 'another method in a header' --header 'X-HTTP-Method-Override: GET' --request OPTIONS "$origin$path"
try 'another path in a header' --header "X-Original-URL: $path" --header "X-Rewrite-URL: $path" --header "X-Envoy-Original-Path: $path" "$origin/"
for odd in "/$path" "/.$path" "/healthz/..$path" "/healthz/%2e%2e$path" "/healthz/..%2f${path#/}" "/healthz/..;$path" "/healthz\\..$path" "$path/" "$path;x=1" "$path%00" "$path%2f"; do
  try "the path $odd" "$origin$odd"
done
try 'the path in capitals' "$origin$(printf %s "$path" | tr '[:lower:]' '[:upper:]')"
try 'a whole URL as target' --request-target "http://$host$path" "$origin$path"
try 'the host with a port' --header "Host: $host:1" "$origin$path"
try 'a host that nobody serves' --header 'Host: nobody.invalid' "$origin$path"
try 'a second host in a header' --header "X-Forwarded-Host: $host" --header "Forwarded: host=$host" "$origin$path"
try 'a WebSocket' --header 'Connection: Upgrade' --header 'Upgrade: websocket' --header 'Sec-WebSocket-Version: 13' --header 'Sec-WebSocket-Key: dHJ5LWJ5cGFzcy10cnkhIQ==' --http1.1 "$origin$path"
try 'an upgrade to HTTP/2' --http2 "$origin$path"
try 'HTTP/2 at once' --http2-prior-knowledge "$origin$path"
try 'HTTP/1.0' --http1.0 "$origin$path"
try 'a gRPC call' --request POST --header 'Content-Type: application/grpc' --header 'TE: trailers' --http2-prior-knowledge "$origin$path"
try CONNECT --request CONNECT --request-target "$host:443" "$origin"

[ "$passed" -eq 0 ] || { echo "try-bypass.sh: $passed got through" >&2; exit 1; }
