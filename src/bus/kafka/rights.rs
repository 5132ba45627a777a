//! What the brokers let this client do, as they say themselves (KIP-430): asked, not tried, so nothing is written.
//!
//! Only transactional ids can't be asked about; those are tried, by taking one that nobody uses.

use super::admin;
use super::client::{REQUEST_TIMEOUT, bus_error};
use super::writer::Writer;
use super::{Cluster, denied};
use crate::bus::BusError;
use crate::bus::acls::Operation;
use rdkafka::bindings as native;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::os::raw::c_char;
use std::time::{Duration, Instant};

const COORDINATOR_PATIENCE: Duration = Duration::from_secs(15);
const COORDINATOR_PAUSE: Duration = Duration::from_millis(200);

/// What is allowed on a resource; None where it can't be known, as it isn't there.
pub type Allowed = Option<BTreeSet<Operation>>;

/// What is allowed, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub topics: BTreeMap<String, Allowed>,
    pub groups: BTreeMap<String, Allowed>,
}

pub(super) fn ask(cluster: &Cluster, topics: &[String], groups: &[String]) -> Result<Rights, BusError> {
    let mut rights = Rights::default();
    if !topics.is_empty() {
        rights.topics = describe(cluster, Question::Topics, topics)?;
    }
    // A group a request: librdkafka asks each group's coordinator by itself anyway.
    for group in groups {
        rights.groups.extend(of_group(cluster, group)?);
    }
    Ok(rights)
}

/// On a new cluster the first question about a group makes the topic of groups, and finds no coordinator for a moment.
fn of_group(cluster: &Cluster, group: &String) -> Result<BTreeMap<String, Allowed>, BusError> {
    let until = Instant::now() + COORDINATOR_PATIENCE;
    loop {
        match describe(cluster, Question::Groups, std::slice::from_ref(group)) {
            Err(BusError::Retriable { .. }) if Instant::now() < until => std::thread::sleep(COORDINATOR_PAUSE),
            answer => return answer,
        }
    }
}

/// Takes a transactional id that nobody else has, and lets it go: true if that is allowed.
pub(super) fn may_write_as(cluster: &Cluster, transactional_id: &str) -> Result<bool, BusError> {
    let config = cluster.settings.trial(transactional_id);
    match Writer::open(&config, cluster.watchdog.clone(), cluster.tokens.as_ref()) {
        Ok(_) | Err(BusError::Fenced(_)) => Ok(true),
        Err(BusError::Denied { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Topics,
    Groups,
}

fn describe(cluster: &Cluster, question: Question, names: &[String]) -> Result<BTreeMap<String, Allowed>, BusError> {
    let doing = "kafka: asking what this client may do";
    let failed = |reason: String| BusError::Failed { doing: doing.into(), reason };
    let texts: Vec<CString> = names
        .iter()
        .map(|name| CString::new(name.as_str()).map_err(|_| failed("a name with a zero byte".into())))
        .collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let client = admin::client(cluster, doing)?;
    let timeout = i32::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every object is made here and destroyed here; client and names outlive the request, and librdkafka copies the
    // names. What the answer holds is copied before the event that owns it is destroyed.
    unsafe {
        let rk = client.inner().native_ptr();
        let operation = match question {
            Question::Topics => native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            Question::Groups => native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
        };
        let options = native::rd_kafka_AdminOptions_new(rk, operation);
        let refused = native::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        if !refused.is_null() {
            native::rd_kafka_error_destroy(refused);
            native::rd_kafka_AdminOptions_destroy(options);
            return Err(failed("this librdkafka can't".into()));
        }
        native::rd_kafka_AdminOptions_set_request_timeout(options, timeout, std::ptr::null_mut(), 0);
        let queue = native::rd_kafka_queue_new(rk);
        match question {
            Question::Topics => {
                let collection = native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
                native::rd_kafka_DescribeTopics(rk, collection, options, queue);
                native::rd_kafka_TopicCollection_destroy(collection);
            }
            Question::Groups => {
                native::rd_kafka_DescribeConsumerGroups(rk, pointers.as_mut_ptr(), pointers.len(), options, queue);
            }
        }
        // The answer comes within the request's time-out, or says that it did not.
        let event = native::rd_kafka_queue_poll(queue, timeout.saturating_add(1000));
        let answer = read(event, question);
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        answer.map_err(|code| bus_error(doing, &KafkaError::Global(code)))
    }
}

/// # Safety
/// `event` is null or the live answer to the question.
unsafe fn read(
    event: *mut native::rd_kafka_event_t,
    question: Question,
) -> Result<BTreeMap<String, Allowed>, RDKafkaErrorCode> {
    if event.is_null() {
        return Err(RDKafkaErrorCode::OperationTimedOut);
    }
    let mut rights = BTreeMap::new();
    // SAFETY: as the caller promises; descriptions, their names and lists belong to the event.
    unsafe {
        let code = native::rd_kafka_event_error(event);
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(code.into());
        }
        let (mut count, mut operations) = (0, 0);
        match question {
            Question::Topics => {
                let answer = native::rd_kafka_event_DescribeTopics_result(event);
                let found = native::rd_kafka_DescribeTopics_result_topics(answer, &mut count);
                for i in 0..count {
                    let one = *found.add(i);
                    let list = native::rd_kafka_TopicDescription_authorized_operations(one, &mut operations);
                    let error = native::rd_kafka_TopicDescription_error(one);
                    rights.insert(text(native::rd_kafka_TopicDescription_name(one)), allowed(error, list, operations)?);
                }
            }
            Question::Groups => {
                let answer = native::rd_kafka_event_DescribeConsumerGroups_result(event);
                let found = native::rd_kafka_DescribeConsumerGroups_result_groups(answer, &mut count);
                for i in 0..count {
                    let one = *found.add(i);
                    let list = native::rd_kafka_ConsumerGroupDescription_authorized_operations(one, &mut operations);
                    let error = native::rd_kafka_ConsumerGroupDescription_error(one);
                    let name = text(native::rd_kafka_ConsumerGroupDescription_group_id(one));
                    rights.insert(name, allowed(error, list, operations)?);
                }
            }
        }
    }
    Ok(rights)
}

/// # Safety
/// `error` is null or live; `list` is null or has `count` operations.
unsafe fn allowed(
    error: *const native::rd_kafka_error_t,
    list: *const native::rd_kafka_AclOperation_t,
    count: usize,
) -> Result<Allowed, RDKafkaErrorCode> {
    use RDKafkaErrorCode as Code;
    // SAFETY: as the caller promises.
    unsafe {
        if !error.is_null() {
            return match RDKafkaErrorCode::from(native::rd_kafka_error_code(error)) {
                Code::NoError => Ok(Some(operations(list, count))),
                Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::GroupIdNotFound => Ok(None),
                // Not even looked at.
                code if denied::remedy(code).is_some() => Ok(Some(BTreeSet::new())),
                code => Err(code),
            };
        }
        Ok(Some(operations(list, count)))
    }
}

/// # Safety
/// `list` is null or has `count` operations.
unsafe fn operations(list: *const native::rd_kafka_AclOperation_t, count: usize) -> BTreeSet<Operation> {
    use native::rd_kafka_AclOperation_t as Native;
    if list.is_null() {
        return BTreeSet::new();
    }
    // SAFETY: as the caller promises.
    let list = unsafe { std::slice::from_raw_parts(list, count) };
    let known = |operation: &Native| {
        Some(match operation {
            Native::RD_KAFKA_ACL_OPERATION_READ => Operation::Read,
            Native::RD_KAFKA_ACL_OPERATION_WRITE => Operation::Write,
            Native::RD_KAFKA_ACL_OPERATION_CREATE => Operation::Create,
            Native::RD_KAFKA_ACL_OPERATION_DESCRIBE => Operation::Describe,
            Native::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS => Operation::DescribeConfigs,
            Native::RD_KAFKA_ACL_OPERATION_ALTER_CONFIGS => Operation::AlterConfigs,
            _ => return None,
        })
    };
    list.iter().filter_map(known).collect()
}

/// # Safety
/// `start` is null or a text that ends with a zero byte.
unsafe fn text(start: *const c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}
