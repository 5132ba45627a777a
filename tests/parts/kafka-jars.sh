# What the parts that run Apache Kafka share: its jars, and how it logs. Sourced after common.sh; no part by itself.

# shellcheck shell=bash disable=SC2154
kafka_version=4.3.0

install_kafka() {
  need java:default-jre-headless mvn:maven
  cached "kafka-$kafka_version" fetch_kafka
}

fetch_kafka() {
  cat >"$1/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$kafka_version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
POM
  maven -f "$1/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1/lib"
}

# Exports what Kafka's classes need to run: where they are, and where their log goes (the process's own output).
kafka_environment() {
  export CLASSPATH="$cache/kafka-$kafka_version/lib/*"
  cat >"$dir/log4j2.properties" <<PROPERTIES
appender.out.type=Console
appender.out.name=out
appender.out.target=SYSTEM_ERR
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
# Says so where it leaves out what ends a transaction in a partition, which then hangs.
logger.markers.name=kafka.coordinator.transaction.TransactionMarkerChannelManager
logger.markers.level=info
PROPERTIES
  export JAVA_TOOL_OPTIONS="-Dlog4j2.configurationFile=$dir/log4j2.properties"
}
