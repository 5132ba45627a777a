//! Topics as they are in the cluster: described, made, and set.

use super::client::{Plain, REQUEST_TIMEOUT, bus_error, native_partition};
use super::{Cluster, denied, token};
use crate::bus::{BusError, TopicFound, TopicSpec, TopicState};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::bindings as native;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

pub(super) type Client = AdminClient<Plain>;

/// Lives for one request: an admin client that nobody polls would gather its log lines for ever.
pub(super) fn client(cluster: &Cluster, doing: &str) -> Result<Client, BusError> {
    let plain = Plain::new(cluster.tokens.as_ref());
    let client: Client = cluster.settings.admin().create_with_context(plain).map_err(|e| bus_error(doing, &e))?;
    token::authorize(client.inner(), cluster.tokens.as_ref())?;
    Ok(client)
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}

pub(super) fn describe(cluster: &Cluster, topics: &[String]) -> Result<Vec<TopicState>, BusError> {
    let mut states = Vec::with_capacity(topics.len());
    for name in topics {
        let found = cluster.layout(name)?.map(|(partitions, replicas)| TopicFound {
            partitions,
            replicas,
            settings: BTreeMap::new(),
        });
        states.push(TopicState { name: name.clone(), found });
    }
    let existing: Vec<String> = states.iter().filter(|s| s.found.is_some()).map(|s| s.name.clone()).collect();
    let mut settings = settings(cluster, &existing)?;
    for state in &mut states {
        if let Some(found) = &mut state.found {
            found.settings = settings.remove(&state.name).unwrap_or_default();
        }
    }
    Ok(states)
}

/// The settings of topics that are there, the broker's defaults included.
pub(super) fn settings(
    cluster: &Cluster,
    topics: &[String],
) -> Result<BTreeMap<String, BTreeMap<String, String>>, BusError> {
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    let doing = "kafka: reading the settings of topics";
    let specifiers: Vec<ResourceSpecifier<'_>> = topics.iter().map(|t| ResourceSpecifier::Topic(t)).collect();
    let client = client(cluster, doing)?;
    let described = block_on(client.describe_configs(&specifiers, &options())).map_err(|e| bus_error(doing, &e))?;
    let mut settings = BTreeMap::new();
    // Answers come in the order of the questions.
    for (name, answer) in topics.iter().zip(described) {
        let resource =
            answer.map_err(|code| denied::refused(format!("kafka: reading the settings of topic {name}"), code))?;
        let entries = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
        settings.insert(name.clone(), entries.collect());
    }
    Ok(settings)
}

/// A setting of the brokers themselves, as one of them has it.
pub(super) fn broker_setting(cluster: &Cluster, setting: &str) -> Result<Option<String>, BusError> {
    let doing = format!("kafka: reading {setting} of the brokers");
    let client = client(cluster, &doing)?;
    let metadata =
        cluster.inspector.client().fetch_metadata(None, REQUEST_TIMEOUT).map_err(|e| bus_error(&doing, &e))?;
    let Some(broker) = metadata.brokers().first() else { return Ok(None) };
    let asked = [ResourceSpecifier::Broker(broker.id())];
    let described = block_on(client.describe_configs(&asked, &options())).map_err(|e| bus_error(&doing, &e))?;
    for answer in described {
        let resource = answer.map_err(|code| denied::refused(doing.clone(), code))?;
        let found = resource.entries.into_iter().find(|entry| entry.name == setting);
        if let Some(value) = found.and_then(|entry| entry.value) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

pub(super) fn create(cluster: &Cluster, specs: &[TopicSpec]) -> Result<(), BusError> {
    if specs.is_empty() {
        return Ok(());
    }
    let doing = "kafka: making topics";
    let topics: Vec<NewTopic<'_>> = specs
        .iter()
        .map(|spec| {
            // -1: the broker's default (KIP-464).
            let replicas = TopicReplication::Fixed(spec.replicas.map_or(-1, i32::from));
            let topic = NewTopic::new(&spec.name, native_partition(spec.partitions), replicas);
            spec.settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let client = client(cluster, doing)?;
    let made = block_on(client.create_topics(&topics, &options())).map_err(|e| bus_error(doing, &e))?;
    for result in made {
        result.map_err(|(name, code)| denied::refused(format!("kafka: making topic {name}"), code))?;
    }
    cluster.wait_for_topics(specs)
}

/// By IncrementalAlterConfigs (KIP-339): the older call, which is the one that rdkafka wraps, resets what is not named.
pub(super) fn configure(cluster: &Cluster, topic: &str, settings: &BTreeMap<String, String>) -> Result<(), BusError> {
    let doing = format!("kafka: setting topic {topic}");
    let failed = |reason: String| BusError::Failed { doing: doing.clone(), reason };
    let c_text = |s: &str| CString::new(s).map_err(|_| failed("a name or value with a zero byte".into()));
    let client = client(cluster, &doing)?;
    let (name, pairs) = (
        c_text(topic)?,
        settings.iter().map(|(k, v)| Ok((c_text(k)?, c_text(v)?))).collect::<Result<Vec<_>, BusError>>()?,
    );
    let timeout = i32::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every object is made here and destroyed here, in reverse; the client outlives them all. librdkafka copies the
    // resources before IncrementalAlterConfigs returns. Texts of the event are copied before it is destroyed.
    unsafe {
        let rk = client.inner().native_ptr();
        let mut resource = native::rd_kafka_ConfigResource_new(
            native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            name.as_ptr(),
        );
        for (key, value) in &pairs {
            let error = native::rd_kafka_ConfigResource_add_incremental_config(
                resource,
                key.as_ptr(),
                native::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET,
                value.as_ptr(),
            );
            if !error.is_null() {
                let reason = CStr::from_ptr(native::rd_kafka_error_string(error)).to_string_lossy().into_owned();
                native::rd_kafka_error_destroy(error);
                native::rd_kafka_ConfigResource_destroy(resource);
                return Err(failed(reason));
            }
        }
        let queue = native::rd_kafka_queue_new(rk);
        let options = native::rd_kafka_AdminOptions_new(
            rk,
            native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS,
        );
        native::rd_kafka_AdminOptions_set_request_timeout(options, timeout, std::ptr::null_mut(), 0);
        native::rd_kafka_IncrementalAlterConfigs(rk, &mut resource, 1, options, queue);
        // The answer comes within the request's time-out, or says that it did not.
        let event = native::rd_kafka_queue_poll(queue, timeout.saturating_add(1000));
        let result = alter_result(event);
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_ConfigResource_destroy(resource);
        result.map_err(|(code, reason)| denied::refused_as(doing.clone(), reason, code))
    }
}

/// # Safety
/// `event` is null or the live answer to IncrementalAlterConfigs.
unsafe fn alter_result(event: *mut native::rd_kafka_event_t) -> Result<(), (RDKafkaErrorCode, String)> {
    const GOOD: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    if event.is_null() {
        return Err((RDKafkaErrorCode::OperationTimedOut, "no answer".into()));
    }
    // SAFETY: as the caller promises; the resources belong to the event.
    unsafe {
        let code = native::rd_kafka_event_error(event);
        if code != GOOD {
            let reason = CStr::from_ptr(native::rd_kafka_event_error_string(event));
            return Err((code.into(), reason.to_string_lossy().into_owned()));
        }
        let answer = native::rd_kafka_event_IncrementalAlterConfigs_result(event);
        if answer.is_null() {
            return Err((RDKafkaErrorCode::Fail, "an answer to another question".into()));
        }
        let mut count = 0;
        let resources = native::rd_kafka_IncrementalAlterConfigs_result_resources(answer, &mut count);
        for i in 0..count {
            let resource = *resources.add(i);
            let code = native::rd_kafka_ConfigResource_error(resource);
            if code != GOOD {
                let reason = native::rd_kafka_ConfigResource_error_string(resource);
                let reason = if reason.is_null() {
                    "the broker refused it".into()
                } else {
                    CStr::from_ptr(reason).to_string_lossy().into_owned()
                };
                return Err((code.into(), reason));
            }
        }
        Ok(())
    }
}
