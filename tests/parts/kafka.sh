#!/usr/bin/env bash
# Apache Kafka, one broker that is its own controller. Prints HOST:PORT.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
part=kafka
version=4.3.0

install_part() {
  need java:default-jre-headless mvn:maven
  cached "kafka-$version" fetch
}

fetch() {
  cat >"$1/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
POM
  maven -f "$1/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1/lib"
}

start_part() {
  local port controller
  port=$(free_port 19092)
  controller=$(free_port 19093)
  address=127.0.0.1:$port
  export CLASSPATH="$cache/kafka-$version/lib/*"
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
  cat >"$dir/log4j2.properties" <<PROPERTIES
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
PROPERTIES
  export JAVA_TOOL_OPTIONS="-Dlog4j2.configurationFile=$dir/log4j2.properties"
  java kafka.tools.StorageTool format --standalone -t lockstepLockstepTests0 -c "$dir/server.properties" >>"$dir/log" 2>&1
  spawn java -Xmx1g kafka.Kafka "$dir/server.properties"
  # Logged when the broker is registered and unfenced; the port alone is open earlier.
  ready 120 grep -q 'Kafka Server started' "$dir/log"
}

verb "$@"
