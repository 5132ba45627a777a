"""forget_group.py BOOTSTRAP GROUP: deletes a consumer group, so that its next member begins at the beginning.

The kit empties topics between runs, but not the offsets of the source topics, which it reads several times."""
import sys, time
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

# A static member that stopped is of the group until its session ends (10 s).
LONGEST_S = 30
bootstrap, group = sys.argv[1:]
admin, end = AdminClient({"bootstrap.servers": bootstrap}), time.time() + LONGEST_S
while True:
    try:
        admin.delete_consumer_groups([group], request_timeout=10)[group].result(15)
        break
    except KafkaException as e:
        code = e.args[0].code()
        if code == KafkaError.GROUP_ID_NOT_FOUND:
            break
        if time.time() > end:
            raise SystemExit(f"the group {group} could not be deleted: {e}")
        time.sleep(0.25)
