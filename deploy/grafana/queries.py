"""Every query of the dashboards as a recording rule, for promtool to parse: Grafana's variables replaced by what they may hold."""

import json
import pathlib

VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m", "$tenant": ".*", "$target": ".*"}

print("groups:\n  - name: dashboards\n    rules:")
number = 0
for path in sorted(pathlib.Path(__file__).parent.glob("dashboards/*.json")):
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            if "$" in query:
                raise SystemExit(f"{path}: {panel['title']}: a variable that is not known: {query}")
            number += 1
            print(f"      - record: dashboard:query:{number}\n        expr: {json.dumps(query)}")
if number == 0:
    raise SystemExit("no dashboard has a query")
