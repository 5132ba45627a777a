#!/usr/bin/env bash
# Apache Kafka, a cluster of three brokers that are its controllers as well. Prints HOST:PORT,HOST:PORT,HOST:PORT.
#
#   kafka3.sh broker kill|stop|start N   one of them: killed, ended in good order, started again
#   kafka3.sh controller                 the number of the one that is the active controller
#   kafka3.sh proxied                    for each a line LISTEN UPSTREAM: its second listener is UPSTREAM, and clients that
#                                        come by it are sent to LISTEN, where the test puts a proxy
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname "${BASH_SOURCE[0]}")/kafka-jars.sh"
part=kafka3
brokers=(1 2 3)

install_part() { install_kafka; }

start_part() {
  local n client controller upstream proxy controllers='' voters='' addresses=''
  kafka_environment
  for n in "${brokers[@]}"; do
    mkdir "$dir/$n"
    # Four ports a broker, none of which ends as another part's.
    client=$(free_port $((19057 + 4 * n))) controller=$(free_port $((19058 + 4 * n)))
    upstream=$(free_port $((19059 + 4 * n))) proxy=$(free_port $((19060 + 4 * n)))
    addresses+=,127.0.0.1:$client
    controllers+=,127.0.0.1:$controller
    voters+=",$n@127.0.0.1:$controller:lockstep${n}LockstepNode0"
    echo "127.0.0.1:$proxy 127.0.0.1:$upstream" >>"$dir/proxied"
    cat >"$dir/$n/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$n
listeners=PLAINTEXT://127.0.0.1:$client,PROXIED://127.0.0.1:$upstream,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$client,PROXIED://127.0.0.1:$proxy,CONTROLLER://127.0.0.1:$controller
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$dir/$n/log.dirs
num.partitions=6
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=10
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=10
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
group.initial.rebalance.delay.ms=0
PROPERTIES
  done
  address=${addresses#,}
  for n in "${brokers[@]}"; do
    echo "controller.quorum.bootstrap.servers=${controllers#,}" >>"$dir/$n/server.properties"
    java kafka.tools.StorageTool format -t lockstepLockstepTests3 -c "$dir/$n/server.properties" \
      --initial-controllers "${voters#,}" >>"$dir/log" 2>&1
    start_broker "$n"
  done
  for n in "${brokers[@]}"; do broker_ready "$n"; done
}

start_broker() (
  dir=$dir/$1
  : >"$dir/log"
  spawn java -Xms128m -Xmx384m -XX:+UseSerialGC kafka.Kafka "$dir/server.properties"
)

# Logged when the broker is registered and unfenced; the port alone is open earlier.
broker_ready() (
  dir=$dir/$1
  stop_part() { end_process; } # of one that doesn't come up
  ready 180 grep -q 'Kafka Server started' "$dir/log"
)

broker() {
  local verb=$1 n=$2
  [ -s "$dir/$n/server.properties" ] || fail "$part: there is no broker $n here"
  case $verb in
    start)
      kafka_environment
      start_broker "$n"
      broker_ready "$n"
      ;;
    # It hands its partitions over first.
    stop) (dir=$dir/$n && stop_signal=TERM stop_patience=60 && end_process) ;;
    kill) (dir=$dir/$n && stop_signal=KILL && end_process) ;;
    *) fail "usage: $0 broker kill | stop | start N" ;;
  esac
}

controller() {
  kafka_environment
  java org.apache.kafka.tools.MetadataQuorumCommand --bootstrap-server "$(<"$dir/address")" describe --status 2>>"$dir/log" |
    sed -n 's/^LeaderId: *//p'
}

running() { [ -d "$dir/1" ] && (dir=$dir/1 && alive); }

stop_part() {
  local n
  for n in "${brokers[@]}"; do
    # All are about to go, so none waits for another to take its partitions over.
    [ ! -d "$dir/$n" ] || (dir=$dir/$n && stop_signal=KILL && end_process)
  done
  rm -rf "$dir"
}

case ${1:-} in
  broker) dir=$parts_data/$part && broker "${2:-}" "${3:-}" ;;
  controller) dir=$parts_data/$part && controller ;;
  proxied) cat "$parts_data/$part/proxied" ;;
  *) verb "$@" ;;
esac
