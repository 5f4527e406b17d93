"""The plain page: the status as text, renewed by the browser itself, without a script."""

import json
from html import escape

from services.dashboard.status import Status

REFRESH_SECONDS = 2
CONTENT_SECURITY_POLICY = "default-src 'none'"

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="{refresh_seconds}">
<title>T-PPO: {run}</title>
</head>
<body>
<h1>{run}: {state}, step {step} of {total}</h1>
<p>{learner}</p>
<p><a href="/api/v1/status">the same as JSON</a>, <a href="/docs">all addresses</a></p>
<pre>{facts}</pre>
</body>
</html>
"""


def page_of(status: Status) -> str:
    """The status as HTML."""
    facts = status.model_dump(mode="json", exclude={"run", "state", "step", "total_training_steps"})
    return TEMPLATE.format(
        refresh_seconds=REFRESH_SECONDS,
        run=escape(status.run),
        state=escape(status.state.replace("_", " ")),
        step=status.step,
        total=status.total_training_steps,
        learner=_learner_sentence(status),
        facts=escape(json.dumps(facts, indent=2)),
    )


def _learner_sentence(status: Status) -> str:
    if status.learner_gone_since is None:
        return ""
    return f"The learner was last seen at {status.learner_gone_since:%Y-%m-%d %H:%M:%S} UTC; the others wait for it."
