#!/usr/bin/env python3
"""A policy for vmm migrate --policy exec:plateau.py, with the standard library only.

It switches over once what is left fits the downtime limit, or has not shrunk for five rounds."""
import json
import sys

limit_ms = 300.0
best, since = None, 0  # the fewest pages that a round has left, and how many rounds ago

for line in sys.stdin:
    event = json.loads(line)
    if event["event"] == "start":
        limit_ms = event["downtime_limit_ms"]
    if event["event"] == "round" and not event.get("idle"):
        since += 1
        if best is None or event["remaining_pages"] < best:
            best, since = event["remaining_pages"], 0
    if "question" not in event:
        continue  # it only tells
    answer = {"action": "continue"}
    if event["event"] != "start":
        pages_ms = event.get("expected_downtime_ms", limit_ms + 1)
        if pages_ms + event["fixed_downtime_ms"] <= limit_ms:
            answer = {"action": "switchover", "reason": "the rest fits the downtime limit"}
        elif since >= 5:
            answer = {"action": "switchover", "gave_up": True, "reason": "no progress in 5 rounds"}
    print(json.dumps(answer), flush=True)
