#!/usr/bin/env bash
# Apache Kafka, one broker that is its own controller. Prints HOST:PORT.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname "${BASH_SOURCE[0]}")/kafka-jars.sh"
part=kafka

install_part() { install_kafka; }

start_part() {
  local port controller
  port=$(free_port 19092)
  controller=$(free_port 19093)
  address=127.0.0.1:$port
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$dir/log.dirs
num.partitions=6
offsets.topic.replication.factor=1
offsets.topic.num.partitions=10
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=10
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
  kafka_environment
  java kafka.tools.StorageTool format --standalone -t lockstepLockstepTests0 -c "$dir/server.properties" >>"$dir/log" 2>&1
  spawn java -Xmx1g kafka.Kafka "$dir/server.properties"
  # Logged when the broker is registered and unfenced; the port alone is open earlier.
  ready 120 grep -q 'Kafka Server started' "$dir/log"
}

verb "$@"
