//! Three real brokers that are killed and started again, and the proxies through which some clients reach them.

use crate::stage::Place;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

pub const BROKERS: [usize; 3] = [1, 2, 3];
const REPLICAS: u16 = 3;
/// From a broker's start until all replicas are in step again.
const IN_STEP: Duration = Duration::from_secs(180);
const UUID_LENGTH: usize = 36;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How a network is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Connections break, new ones are refused.
    Refused,
    /// Connections stay, and nothing comes through in either direction.
    Silent,
    /// Requests arrive, answers don't: what was asked for is done, and who asked doesn't know.
    AnswersLost,
}

impl Cut {
    pub const ALL: [Self; 3] = [Self::Refused, Self::Silent, Self::AnswersLost];
}

pub struct Cluster {
    inspector: BaseConsumer,
    bootstrap: String,
    /// HOST:PORT of the proxies' API.
    proxies: String,
    /// Where clients that come by a proxy are sent.
    far: Vec<String>,
}

impl Cluster {
    /// The cluster that `tests/run` has started, with a proxy before each broker's second listener.
    pub fn join() -> Self {
        let bootstrap = std::env::var("LOCKSTEP_TEST_KAFKA3").expect("LOCKSTEP_TEST_KAFKA3 is a cluster's addresses");
        let proxies =
            std::env::var("LOCKSTEP_TEST_TOXIPROXY").expect("LOCKSTEP_TEST_TOXIPROXY is host:port of its API");
        let inspector = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap)
            .set("topic.metadata.refresh.interval.ms", "1000")
            .create()
            .unwrap();
        let mut cluster = Self { inspector, bootstrap, proxies, far: Vec::new() };
        for (broker, line) in BROKERS.into_iter().zip(part(&["proxied"]).lines()) {
            let (listen, upstream) = line.split_once(' ').unwrap();
            let name = proxy(broker);
            // A run before this one may have left it.
            cluster.ask("DELETE", &format!("/proxies/{name}"), "");
            let body = format!(r#"{{"name":"{name}","listen":"{listen}","upstream":"{upstream}","enabled":true}}"#);
            let answer = cluster.ask("POST", "/proxies", &body);
            assert!(answer.starts_with("HTTP/1.1 201"), "making proxy {name}: {answer}");
            cluster.far.push(listen.to_owned());
        }
        cluster.wait_until_in_step();
        cluster
    }

    pub fn place(&self) -> Place {
        Place { bootstrap: self.bootstrap.clone(), replicas: REPLICAS, far: Some(self.far.join(",")) }
    }

    pub fn kill(&self, broker: usize) {
        part(&["broker", "kill", &broker.to_string()]);
    }

    /// Ends it in good order: it hands its partitions over first.
    pub fn stop(&self, broker: usize) {
        part(&["broker", "stop", &broker.to_string()]);
    }

    /// Starts it, and waits until every replica on it is in step: with min.insync.replicas 2 a second one that went before
    /// would be an outage.
    pub fn start(&self, broker: usize) {
        part(&["broker", "start", &broker.to_string()]);
        self.wait_until_in_step();
    }

    pub fn controller(&self) -> usize {
        part(&["controller"]).trim().parse().unwrap()
    }

    /// Cuts the clients that come by the proxies off these brokers.
    pub fn cut(&self, brokers: &[usize], cut: Cut) {
        for broker in brokers {
            let toxic = |stream: &str| {
                let body = format!(
                    r#"{{"name":"{stream}","type":"timeout","stream":"{stream}","attributes":{{"timeout":0}}}}"#
                );
                self.change(&format!("/proxies/{}/toxics", proxy(*broker)), &body);
            };
            match cut {
                Cut::Refused => self.change(&format!("/proxies/{}", proxy(*broker)), r#"{"enabled":false}"#),
                Cut::Silent => ["upstream", "downstream"].into_iter().for_each(toxic),
                Cut::AnswersLost => toxic("downstream"),
            }
        }
    }

    /// All proxies as they were.
    pub fn mend(&self) {
        self.change("/reset", "");
    }

    fn change(&self, path: &str, body: &str) {
        let answer = self.ask("POST", path, body);
        assert!(answer.starts_with("HTTP/1.1 2"), "POST {path}: {answer}");
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.proxies).unwrap();
        stream.set_read_timeout(Some(REQUEST_TIMEOUT)).unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// What each member of a group holds, by the member's instance: its assignment, as the group's protocol encodes it.
    pub fn partitions_of(&self, group: &str) -> BTreeMap<String, Vec<u8>> {
        let list = self.inspector.fetch_group_list(Some(group), REQUEST_TIMEOUT).unwrap();
        let members = list.groups().iter().flat_map(|group| group.members());
        // A static member's id is its instance's name and a UUID of its present life.
        let instance = |id: &str| id[..id.len() - UUID_LENGTH - 1].to_owned();
        members.map(|member| (instance(member.id()), member.assignment().unwrap_or_default().to_vec())).collect()
    }

    fn wait_until_in_step(&self) {
        let until = Instant::now() + IN_STEP;
        loop {
            let behind = match self.inspector.fetch_metadata(None, REQUEST_TIMEOUT) {
                Ok(metadata) if metadata.brokers().len() < BROKERS.len() => "a broker is missing".to_owned(),
                Ok(metadata) => {
                    let partitions = metadata.topics().iter().flat_map(|t| t.partitions().iter().map(move |p| (t, p)));
                    let mut behind = partitions.filter(|(_, p)| p.isr().len() < p.replicas().len());
                    match behind.next() {
                        None => return,
                        Some((topic, partition)) => format!("partition {} of {}", partition.id(), topic.name()),
                    }
                }
                Err(error) => error.to_string(),
            };
            assert!(Instant::now() < until, "replicas are not in step within {IN_STEP:?}: {behind}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn proxy(broker: usize) -> String {
    format!("broker-{broker}")
}

/// A verb of the part that runs the brokers; gives what it prints.
fn part(args: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/kafka3.sh");
    let output = Command::new(script).args(args).output().unwrap();
    assert!(output.status.success(), "{script} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
