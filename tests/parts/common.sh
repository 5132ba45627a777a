# What the parts share. A part is a real server that tests run against, one file each, with the verbs
#   install   fetch what it needs into the cache; does nothing when it is there
#   start     start it on 127.0.0.1, wait until it answers, print its address (nothing else on stdout)
#   stop      end it and delete its data
# A part's file sets `part`, defines install_part and start_part, and ends with `verb "$@"`.
#
# LOCKSTEP_TEST_CACHE   downloads, kept between runs
# LOCKSTEP_PARTS_DATA   data, logs and pids of this run; by hand one fixed folder, so that `stop` finds what `start` left

# shellcheck disable=SC2154  # part and address are set by the part's file
set -euo pipefail

cache=${LOCKSTEP_TEST_CACHE:-$HOME/.cache/lockstep-tests}
parts_data=${LOCKSTEP_PARTS_DATA:-${TMPDIR:-/tmp}/lockstep-parts-$UID}

say() { printf '%5ds  %s\n' "$SECONDS" "$*" >&2; }
fail() { say "$*"; exit 1; }

# need COMMAND:PACKAGE... installs the packages of the commands that are missing, where that is possible.
need() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

apt_install() {
  local policy=/usr/sbin/policy-rc.d
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    fail "missing: $*; install these Debian packages (or what holds their commands), then run this again"
  fi
  say "installing $*"
  (
    # A server package starts its own service when it is installed, on the ports that tests want. This file forbids that
    # while apt runs; whatever stood there before comes back.
    [ ! -e $policy ] || mv $policy $policy.lockstep
    trap 'rm -f $policy; [ ! -e $policy.lockstep ] || mv $policy.lockstep $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=300 update
    apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
  ) </dev/null >"$parts_data/apt.log" 2>&1 || {
    tail -n 30 "$parts_data/apt.log" >&2
    fail "could not install: $*"
  }
}

# cached NAME FUNCTION: $cache/NAME, filled by FUNCTION FOLDER once. A folder that is there is whole: it is filled under
# another name and moved, and two runs at a time wait for each other.
cached() {
  local folder=$cache/$1
  [ ! -d "$folder" ] || return 0
  mkdir -p "$cache"
  (
    flock 9
    [ ! -d "$folder" ] || exit 0
    say "$part: fetching into $folder"
    rm -rf "$folder.new"
    mkdir "$folder.new"
    # A trap, for in an `if` or before `||` bash switches `set -e` off inside FUNCTION.
    trap '[ $? = 0 ] || { tail -n 30 "$parts_data/$part.install.log" >&2; say "$part: could not be fetched"; }' EXIT
    "$2" "$folder.new" </dev/null >"$parts_data/$part.install.log" 2>&1
    mv "$folder.new" "$folder"
  ) 9>"$cache/.lock"
}

# A Maven that keeps its own downloads in the cache, so that deleting that folder undoes everything.
maven() { mvn -q -B -Dmaven.repo.local="$cache/maven" "$@"; }

# maven_file COORDINATES FOLDER: one artifact, without what it depends on.
maven_file() {
  maven dependency:get -Dartifact="$1" -Dtransitive=false
  maven dependency:copy -Dartifact="$1" -DoutputDirectory="$2"
}

# free_port PORT: that one, or the first free one in steps of 100. The parts' own ports differ in their last two digits,
# so that parts which start at the same time never pick the same.
free_port() {
  local port=$1
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 100)); done
  echo "$port"
}

# spawn COMMAND...: in the background and in a session of its own, so that Ctrl-C reaches the tests first.
spawn() {
  setsid "$@" </dev/null >>"$dir/log" 2>&1 &
  remember $!
}

# The start time goes with the pid: a pid that was given to another process since is never signalled.
remember() { echo "$1 $(started "$1")" >"$dir/pid"; }
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

alive() {
  local pid at
  [ -s "$dir/pid" ] && read -r pid at <"$dir/pid" && [ -n "$at" ] && [ "$(started "$pid")" = "$at" ]
}

# ready SECONDS COMMAND...: polls until the part answers; says what its log says when it never does.
ready() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if ! alive || [ $SECONDS -ge $deadline ]; then
      tail -n 30 "$dir/log" >&2
      if alive; then
        say "$part: no answer in time; the lines above are the end of its log"
      else
        say "$part: ended by itself; the lines above are the end of its log"
      fi
      stop_part
      exit 1
    fi
    sleep 0.2
  done
}

# end_process: the part's, by its signal, and for good when that doesn't help in time.
end_process() {
  local pid _
  if alive; then
    read -r pid _ <"$dir/pid"
    kill -s "${stop_signal:-TERM}" "$pid" 2>/dev/null || true
    for _ in $(seq $((${stop_patience:-10} * 10))); do
      alive || break
      sleep 0.1
    done
    if alive; then kill -s KILL "$pid" 2>/dev/null || true; fi
  fi
}

stop_part() {
  end_process
  rm -rf "$dir"
}

# Whether a part was started and runs: one of several processes says it in its own way.
running() { alive; }

verb() {
  dir=$parts_data/$part
  mkdir -p "$parts_data"
  # Servers that refuse root run as another user and must get through to their own folder.
  chmod 711 "$parts_data"
  case ${1:-} in
    install) install_part ;;
    start)
      if running; then cat "$dir/address"; return; fi
      install_part
      rm -rf "$dir"
      mkdir "$dir"
      local since=$SECONDS
      start_part
      echo "$address" >"$dir/address"
      say "$part: ready after $((SECONDS - since)) s at $address"
      echo "$address"
      ;;
    stop) stop_part ;;
    *) fail "usage: $0 install | start | stop" ;;
  esac
}
