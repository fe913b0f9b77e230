"""
Work that runs beside its caller: background tasks with an owner, group commit, and the life after a fork.

- In any thread and any loop: `loops` schedules a call in a loop, wakes the tasks that wait there, and runs a coroutine
  without one. `threads` makes a call in a thread. `groupcommit` commits for the callers of all of them.
- With an owner: `background` runs the calls of a trail or an outbox, or keeps them until somebody does. `life` enters a
  context manager in a task of its own.
- Without a loop: `portal` has one in a thread, and stops what runs there at the exit, for which `_ownloop` is.
- `strangers` is the border to code that is not ours. `fork` makes anew, in a forked child, what belongs to the parent.
- Small: `countdown`, `weakset`, and `green` for threads that are none.
"""
