#!/usr/bin/env bash
# scim2-server, in memory: a SCIM 2.0 service provider. Prints its base URL; wants $LOCKSTEP_TEST_SCIM_TOKEN as bearer token.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
part=scim
version=0.8.3

install_part() {
  need python3:python3 curl:curl
  # Debian splits venv's pip off Python.
  python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
  cached "scim2-server-$version" fetch
}

# A venv holds its own path and can't be moved: the packages go into a folder of their own instead.
fetch() {
  python3 -m venv "$1/installer"
  "$1/installer/bin/pip" --quiet --disable-pip-version-check install --target "$1/packages" "scim2-server==$version"
  rm -r "$1/installer"
}

start_part() {
  local port
  port=$(free_port 18090)
  address=http://127.0.0.1:$port/v2
  export LOCKSTEP_TEST_SCIM_TOKEN=${LOCKSTEP_TEST_SCIM_TOKEN:-lockstep-test}
  export PYTHONPATH="$cache/scim2-server-$version/packages"
  spawn python3 "$PYTHONPATH/bin/scim2-server" --port "$port" --bearer-token "$LOCKSTEP_TEST_SCIM_TOKEN"
  ready 60 curl -fs -H "Authorization: Bearer $LOCKSTEP_TEST_SCIM_TOKEN" "$address/ServiceProviderConfig"
}

verb "$@"
