#!/usr/bin/env bash
# Keycloak, in memory, with its SCIM API; the administrator is admin/admin. Prints the base URL.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
part=keycloak
version=26.7.4

install_part() {
  need java:default-jre-headless mvn:maven curl:curl unzip:unzip
  cached "keycloak-$version" fetch
}

# The build step is half of a first start: done once, and its result is part of what is cached.
fetch() {
  maven_file "org.keycloak:keycloak-quarkus-dist:$version:zip" "$1"
  unzip -q "$1"/*.zip -d "$1"
  rm "$1"/*.zip
  mv "$1/keycloak-$version"/* "$1"
  rmdir "$1/keycloak-$version"
  "$1/bin/kc.sh" build --db=dev-mem --cache=local --health-enabled=true --features=scim-api
}

start_part() {
  local port management
  port=$(free_port 18080)
  management=$(free_port 19000)
  address=http://127.0.0.1:$port
  export KC_BOOTSTRAP_ADMIN_USERNAME=admin KC_BOOTSTRAP_ADMIN_PASSWORD=admin
  export JAVA_OPTS_KC_HEAP="-Xms256m -Xmx768m"
  # kc.sh becomes the server's process: its pid stays the pid.
  spawn "$cache/keycloak-$version/bin/kc.sh" start --optimized --http-enabled=true --hostname-strict=false \
    --http-host=127.0.0.1 --http-port="$port" \
    --http-management-host=127.0.0.1 --http-management-port="$management"
  ready 300 curl -fs "http://127.0.0.1:$management/health/ready"
}

verb "$@"
