#!/usr/bin/env bash
# PostgreSQL, everybody trusted on 127.0.0.1. Prints the URL of its database.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
part=postgres
stop_signal=INT # "fast": ends sessions; TERM would wait for clients to leave

install_part() {
  [ -n "$(binaries)" ] || apt_install postgresql
}

# Debian keeps the server's programs off the PATH, a folder a version; the newest is taken.
binaries() {
  find /usr/lib/postgresql -name initdb -path '*/bin/*' 2>/dev/null | sort -V | tail -n 1 | xargs -r dirname
}

start_part() {
  local port bin as=()
  port=$(free_port 15432)
  bin=$(binaries)
  address=postgres://postgres@127.0.0.1:$port/postgres
  # PostgreSQL refuses root.
  if [ "$(id -u)" = 0 ]; then
    as=(runuser -u postgres --)
    chown postgres "$dir"
  fi
  cd "$dir"
  "${as[@]}" "$bin/initdb" -D "$dir/db" -A trust -U postgres --no-sync >>"$dir/log" 2>&1
  # fsync off: a test's data has nothing to survive. Logical decoding on: change capture needs it.
  "${as[@]}" "$bin/pg_ctl" -D "$dir/db" -w -t 60 -l "$dir/db/server.log" -o "-p $port -k $dir/db -c listen_addresses=127.0.0.1 -c wal_level=logical -c fsync=off" start \
    </dev/null >>"$dir/log" 2>&1 || {
    tail -n 30 "$dir/log" "$dir/db/server.log" >&2 || true
    fail "$part: did not start; the lines above are the end of its log"
  }
  remember "$(head -n 1 "$dir/db/postmaster.pid")"
}

verb "$@"
