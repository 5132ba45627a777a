//! Allowing and forbidding, as the cluster's administrator does it: rdkafka wraps no ACLs, so these are librdkafka's own calls.

use crate::cluster::Secured;
use rdkafka::ClientConfig;
use rdkafka::bindings as native;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaRespErr;
use serde_json::Value;
use std::ffi::CString;

const ANSWER_MS: i32 = 20_000;
const REASON_BYTES: usize = 512;

/// One operation on one resource, to one principal from any host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub process: String,
    pub principal: String,
    pub operation: String,
    pub kind: String,
    pub name: String,
    pub prefixed: bool,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let star = if self.prefixed { "*" } else { "" };
        write!(f, "{}: {} on {} {}{star}", self.process, self.operation, self.kind, self.name)
    }
}

/// What `lockstep topics acls --json` lists, an operation each.
pub fn lines(listed: &str) -> Vec<Line> {
    let listed: Vec<Value> = serde_json::from_str(listed).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut lines = Vec::new();
    for grant in &listed {
        for operation in grant["operations"].as_array().unwrap() {
            lines.push(Line {
                process: text(&grant["process"]),
                principal: text(&grant["principal"]),
                operation: text(operation),
                kind: text(&grant["resource"]),
                name: text(&grant["name"]),
                prefixed: grant["prefixed"].as_bool().unwrap(),
            });
        }
    }
    lines
}

pub struct Authorizer {
    client: BaseProducer,
}

impl Authorizer {
    pub fn new(secured: &Secured) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", secured.listener("sasl"));
        for (name, value) in secured.admin_properties() {
            config.set(name, value);
        }
        Self { client: config.create().unwrap() }
    }

    pub fn allow(&self, lines: &[Line]) {
        self.ask(lines, false);
    }

    pub fn take_away(&self, line: &Line) {
        self.ask(std::slice::from_ref(line), true);
    }

    fn ask(&self, lines: &[Line], delete: bool) {
        if lines.is_empty() {
            return;
        }
        // SAFETY: every object is made here and destroyed here; the client outlives them, and librdkafka copies the bindings.
        unsafe {
            let rk = self.client.client().native_ptr();
            let mut bindings: Vec<*mut native::rd_kafka_AclBinding_t> =
                lines.iter().map(|line| binding(line, delete)).collect();
            let operation = match delete {
                true => native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETEACLS,
                false => native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEACLS,
            };
            let options = native::rd_kafka_AdminOptions_new(rk, operation);
            let queue = native::rd_kafka_queue_new(rk);
            match delete {
                true => native::rd_kafka_DeleteAcls(rk, bindings.as_mut_ptr(), bindings.len(), options, queue),
                false => native::rd_kafka_CreateAcls(rk, bindings.as_mut_ptr(), bindings.len(), options, queue),
            }
            let event = native::rd_kafka_queue_poll(queue, ANSWER_MS);
            assert!(!event.is_null(), "no answer about ACLs");
            let code = native::rd_kafka_event_error(event);
            assert_eq!(code, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, "ACLs");
            let mut count = 0;
            match delete {
                true => {
                    let answer = native::rd_kafka_event_DeleteAcls_result(event);
                    let answers = native::rd_kafka_DeleteAcls_result_responses(answer, &mut count);
                    for (i, line) in lines.iter().enumerate().take(count) {
                        let mut matched = 0;
                        native::rd_kafka_DeleteAcls_result_response_matching_acls(*answers.add(i), &mut matched);
                        assert_eq!(matched, 1, "{line} was not there to be taken away");
                    }
                }
                false => {
                    let answer = native::rd_kafka_event_CreateAcls_result(event);
                    let answers = native::rd_kafka_CreateAcls_result_acls(answer, &mut count);
                    for (i, line) in lines.iter().enumerate().take(count) {
                        let error = native::rd_kafka_acl_result_error(*answers.add(i));
                        let code = RDKafkaErrorCode::from(native::rd_kafka_error_code(error));
                        assert!(error.is_null() || code == RDKafkaErrorCode::NoError, "{line}: {code}");
                    }
                }
            }
            assert_eq!(count, lines.len());
            native::rd_kafka_event_destroy(event);
            native::rd_kafka_queue_destroy(queue);
            native::rd_kafka_AdminOptions_destroy(options);
            for binding in bindings {
                native::rd_kafka_AclBinding_destroy(binding);
            }
        }
    }
}

/// # Safety
/// The result is to be destroyed by `rd_kafka_AclBinding_destroy`.
unsafe fn binding(line: &Line, filter: bool) -> *mut native::rd_kafka_AclBinding_t {
    use native::rd_kafka_AclOperation_t as Operation;
    use native::rd_kafka_AclPermissionType_t as Permission;
    use native::rd_kafka_ResourcePatternType_t as Pattern;
    use native::rd_kafka_ResourceType_t as Resource;
    let kind = match line.kind.as_str() {
        "topic" => Resource::RD_KAFKA_RESOURCE_TOPIC,
        "group" => Resource::RD_KAFKA_RESOURCE_GROUP,
        "transactional id" => Resource::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID,
        other => panic!("a resource of kind {other}"),
    };
    let operation = match line.operation.as_str() {
        "Read" => Operation::RD_KAFKA_ACL_OPERATION_READ,
        "Write" => Operation::RD_KAFKA_ACL_OPERATION_WRITE,
        "Create" => Operation::RD_KAFKA_ACL_OPERATION_CREATE,
        "Describe" => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE,
        "DescribeConfigs" => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS,
        "AlterConfigs" => Operation::RD_KAFKA_ACL_OPERATION_ALTER_CONFIGS,
        other => panic!("an operation {other}"),
    };
    let pattern = match line.prefixed {
        true => Pattern::RD_KAFKA_RESOURCE_PATTERN_PREFIXED,
        false => Pattern::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
    };
    let text = |text: &str| CString::new(text).unwrap();
    let (name, principal, host) = (text(&line.name), text(&line.principal), text("*"));
    let make = if filter { native::rd_kafka_AclBindingFilter_new } else { native::rd_kafka_AclBinding_new };
    let mut reason = [0; REASON_BYTES];
    // SAFETY: the texts live through the call, which copies them.
    let made = unsafe {
        make(
            kind,
            name.as_ptr(),
            pattern,
            principal.as_ptr(),
            host.as_ptr(),
            operation,
            Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
            reason.as_mut_ptr(),
            REASON_BYTES,
        )
    };
    assert!(!made.is_null(), "{line}");
    made
}
