//! The bus contract on a real Apache Kafka, and what only Kafka has: fences by generation, static members, brokers that fail.

use super::{
    Bed, LIMIT, PATIENCE, append_numbers, contract_suite, copy_to, member, next_batch, offsets_after, process,
    read_all, record, topic, topic_with, unique, values, wait_assigned,
};
use lockstep::bus::kafka::{KafkaBus, KafkaSettings};
use lockstep::bus::{Bus, CommitError, Membership, Outgoing, Poll, Transaction};
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const MAX_RECORD_BYTES: usize = 900_000;

contract_suite!(contract, kafka_bed, ignore = "needs Kafka: tests/run bus");

struct KafkaBed {
    bus: KafkaBus,
}

fn bootstrap() -> String {
    std::env::var("LOCKSTEP_TEST_KAFKA").expect("LOCKSTEP_TEST_KAFKA is host:port of a Kafka")
}

fn connect(properties: &[(&str, &str)]) -> KafkaBus {
    // The least that brokers allow by default, so that tests of lost members don't take long.
    let properties = [("session.timeout.ms", "6000")].iter().chain(properties);
    KafkaBus::connect(KafkaSettings {
        bootstrap: bootstrap(),
        properties: properties.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        client_id: "contract".into(),
        max_record_bytes: MAX_RECORD_BYTES,
    })
    .unwrap()
}

pub fn kafka_bed() -> KafkaBed {
    KafkaBed { bus: connect(&[]) }
}

impl Bed for KafkaBed {
    fn bus(&self) -> &dyn Bus {
        &self.bus
    }

    fn shares(&self) -> bool {
        true
    }

    fn too_large(&self) -> usize {
        MAX_RECORD_BYTES
    }

    fn die_mid_commit(&self, member: &Membership, outputs: &[Outgoing]) -> bool {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .set("transactional.id", format!("{}-{}", member.group, member.instance))
            .create()
            .unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        for output in outputs {
            let (key, value) = (output.key.as_ref().unwrap(), output.value.as_ref().unwrap());
            producer.send(BaseRecord::to(&output.topic).key(key).payload(value)).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        true
    }
}
