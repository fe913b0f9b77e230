"""
The core: the trail, the signals, and the way to the dispatcher. It knows of no vendor.

- The trail: `audit`. Its short forms of `log_event` are in `everyday`, the methods that read in `questions`, and those
  that make a trail of a configuration in `configured`. `sync` has them without ``await``; `audited` records how a block
  ends.
- An event is stored by `_recording`, in the storage of `_keeping`. It is read by `_reading`, and removed by
  `_retaining`.
- An alert: `policy` says which events alert, `signals` announces them, and `_forwarding` takes them to the dispatcher,
  whose contract is in `alerting`. `_catchup` resends the alerts that a durable dispatcher lacks. `_alerts` starts and
  stops these. `partial` is for dispatchers with several receivers.
- The rules of a policy: `rules` is for users, `_rules` applies them, and `_counts` has the counts of one.
- The trail about itself: `_health` is the book of its `_incidents`, and `_incidentfiles` keeps these for the next
  process. `_watch` looks at the clock and the storage, and `_ownrecords` records what PCI DSS asks for.
"""

__all__: list[str] = []
