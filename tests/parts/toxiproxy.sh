#!/usr/bin/env bash
# toxiproxy: TCP proxies whose connections can be cut, made by its HTTP API. Prints HOST:PORT of that.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
part=toxiproxy
version=2.5.0

install_part() {
  need go:golang-go
  cached "toxiproxy-$version" fetch
}

# Go keeps what it downloads and builds below the cache, too, so that deleting that folder undoes everything.
fetch() {
  GOBIN=$1 GOPATH=$cache/go GOCACHE=$cache/go/build GOFLAGS=-modcacherw \
    go install "github.com/Shopify/toxiproxy/v2/cmd/server@v$version"
}

start_part() {
  local port
  port=$(free_port 18474)
  address=127.0.0.1:$port
  spawn "$cache/toxiproxy-$version/server" -host 127.0.0.1 -port "$port"
  ready 30 grep -q 'Starting HTTP server' "$dir/log"
}

verb "$@"
