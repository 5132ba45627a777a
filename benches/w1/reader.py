"""A command of Lockstep's, as the benchmark kit's measure.py wants it (--reader)."""
import orjson


def read(topic, key, value):
    command = orjson.loads(value)
    return {
        "idempotencyKey": command["idempotency_key"],
        "generation": command["generation"],
        "op": command["op"],
        # The job's groups are an ordered attribute; `active` stands beside the attributes.
        "desired": command["desired"]["attributes"] | {"active": command["desired"]["active"]},
        "deadline": command["deadline"],
        "causedBy": command["cause"]["event"],
        "target": topic.rpartition(".")[2],
        # The routing key is the tenant and the employee number.
        "account": command["routing_key"].partition("/")[2],
    }
