#!/usr/bin/env bash
# Apicurio Registry, in memory; speaks the Confluent schema registry's API. Prints the base URL of that API.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
part=apicurio
version=2.6.13.Final

install_part() {
  need java:default-jre-headless mvn:maven curl:curl
  cached "apicurio-$version" fetch
}

fetch() {
  maven_file "io.apicurio:apicurio-registry-app:$version:tar.gz:all" "$1"
  tar -xzf "$1"/*.tar.gz -C "$1"
  rm "$1"/*.tar.gz
}

start_part() {
  local port
  port=$(free_port 18081)
  address=http://127.0.0.1:$port/apis/ccompat/v7
  spawn java -Xmx384m -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port="$port" \
    -jar "$cache/apicurio-$version/apicurio-registry-app-$version-runner.jar"
  ready 180 curl -fs "$address/subjects"
}

verb "$@"
