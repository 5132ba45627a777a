#!/usr/bin/env bash
# Apache Kafka as a security team wants it: TLS everywhere, SASL (SCRAM, PLAIN, OAUTHBEARER), mutual TLS, an authorizer that
# forbids what nobody allowed, tokens of a real Keycloak. Prints its folder, which holds what a client has to know:
#
#   sasl, mtls, oauth   HOST:PORT of each listener (SASL_SSL with SCRAM and PLAIN; SSL; SASL_SSL with OAUTHBEARER)
#   plain               HOST:PORT of a SASL_PLAINTEXT listener (SCRAM)
#   ca.pem              who signed the broker's certificate
#   other-ca.pem        an authority that signed nothing here
#   NAME.pem, NAME.key  clients' certificates: of each user below, and `stranger`, signed by the other authority
#   admin               the password of user admin, who may do everything
#   kafka-acls, admin.properties   Kafka's own tool, and what it signs in with
#
# Users of SCRAM and of certificates are called alike (lockstep-processor, …), with the password NAME-secret, and may do nothing
# until a test allows it.
#
# Keycloak has to run, for the broker reads its keys at start: in a run of tests/run it is waited for.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
part=kafka-secure
version=4.3.0
users=(lockstep-topics lockstep-processor lockstep-worker-directory lockstep-serve lockstep-publish)

install_part() {
  need java:default-jre-headless mvn:maven openssl:openssl curl:curl
  tests/parts/kafka.sh install
}

# authority NAME: NAME.pem and NAME.key that may sign.
authority() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=lockstep-test-$1" -keyout "$1.key" -out "$1.pem" \
    -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign
}

# certificate NAME AUTHORITY COMMON-NAME [SUBJECT-ALTERNATIVES]
certificate() {
  openssl req -newkey rsa:2048 -nodes -subj "/CN=$3" -keyout "$1.key" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 30 -out "$1.pem" \
    -extfile <(if [ -n "${4:-}" ]; then echo "subjectAltName=$4"; fi)
}

certificates() (
  cd "$dir"
  authority ca
  authority other-ca
  certificate broker ca localhost DNS:localhost,IP:127.0.0.1
  certificate stranger other-ca lockstep-processor
  local user
  for user in "${users[@]}"; do certificate "$user" ca "$user"; done
  cat broker.key broker.pem ca.pem >broker.chain.pem
) >>"$dir/log" 2>&1

# The keys of Keycloak's realm master, by the address that its part wrote down.
keycloak_keys() {
  local until=$((SECONDS + 300))
  until [ -s "$parts_data/keycloak/address" ]; do
    [ $SECONDS -lt $until ] || fail "$part: no Keycloak: tests/parts/keycloak.sh start"
    sleep 0.5
  done
  echo "$(<"$parts_data/keycloak/address")/realms/master/protocol/openid-connect/certs"
}

start_part() {
  local sasl mtls oauth plain controller keys scram=org.apache.kafka.common.security.scram.ScramLoginModule
  sasl=$(free_port 19694)
  mtls=$(free_port 19695)
  oauth=$(free_port 19696)
  plain=$(free_port 19697)
  controller=$(free_port 19693)
  address=$dir
  certificates
  keys=$(keycloak_keys)
  echo "localhost:$sasl" >"$dir/sasl"
  echo "localhost:$mtls" >"$dir/mtls"
  echo "localhost:$oauth" >"$dir/oauth"
  echo "localhost:$plain" >"$dir/plain"
  echo admin-secret >"$dir/admin"
  export CLASSPATH="$cache/kafka-$version/lib/*"
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$controller
listeners=SASL_SSL://127.0.0.1:$sasl,SSL://127.0.0.1:$mtls,OAUTH://127.0.0.1:$oauth,SASL_PLAINTEXT://127.0.0.1:$plain,CONTROLLER://127.0.0.1:$controller
advertised.listeners=SASL_SSL://localhost:$sasl,SSL://localhost:$mtls,OAUTH://localhost:$oauth,SASL_PLAINTEXT://localhost:$plain
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,OAUTH:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=SASL_SSL
controller.listener.names=CONTROLLER
sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$scram required username="broker" password="broker-secret";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=$scram required;
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_eve="eve-secret";
listener.name.sasl_plaintext.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=$scram required;
listener.name.oauth.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.oauth.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.oauth.oauthbearer.sasl.oauthbearer.jwks.endpoint.url=$keys
listener.name.oauth.oauthbearer.sasl.oauthbearer.sub.claim.name=azp
listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.audience=account
listener.name.oauth.oauthbearer.connections.max.reauth.ms=60000
listener.name.ssl.ssl.client.auth=required
listener.name.ssl.ssl.principal.mapping.rules=RULE:^CN=([a-z0-9.-]+)$/\$1/,DEFAULT
ssl.keystore.type=PEM
ssl.keystore.location=$dir/broker.chain.pem
ssl.truststore.type=PEM
ssl.truststore.location=$dir/ca.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:broker;User:admin;User:ANONYMOUS
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
  cat >"$dir/admin.properties" <<PROPERTIES
security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=$scram required username="admin" password="admin-secret";
ssl.truststore.type=PEM
ssl.truststore.location=$dir/ca.pem
PROPERTIES
  printf '#!/bin/sh\nexec java -cp "%s" org.apache.kafka.tools.AclCommand "$@"\n' "$CLASSPATH" >"$dir/kafka-acls"
  chmod 755 "$dir/kafka-acls"
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
  export JAVA_TOOL_OPTIONS="-Dlog4j2.configurationFile=$dir/log4j2.properties -Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=$keys"
  local user scram_users=()
  for user in "${users[@]}"; do scram_users+=(--add-scram "SCRAM-SHA-512=[name=$user,password=$user-secret]"); done
  java kafka.tools.StorageTool format --standalone -t lockstepLockstepTests1 -c "$dir/server.properties" \
    --add-scram 'SCRAM-SHA-512=[name=broker,password=broker-secret]' \
    --add-scram 'SCRAM-SHA-512=[name=admin,password=admin-secret]' "${scram_users[@]}" >>"$dir/log" 2>&1
  spawn java -Xmx768m kafka.Kafka "$dir/server.properties"
  ready 180 grep -q 'Kafka Server started' "$dir/log"
}

verb "$@"
