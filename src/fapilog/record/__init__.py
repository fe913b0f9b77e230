"""
The record: events, the values and errors in them, the incidents they are about, and the chain that seals them.

- An event: `events`, with members of `kinds`, `parties` and `errordetails`; `incidents` says which of them belong
  together.
- From a caller's values to an event: `intake`, and `keywords` before it. `containers` reads what is in a value,
  `freezing` copies it, `values` and `texts` make text of it, and `limit` ends a value that takes too long.
- From an event to the bytes of a record and back: `formats`. Sealed and checked: `chain`. Not to be read: `damage`.
- For all of these: `errors`, `options`, `privacy`, `times`, and `later` for modules that are loaded when needed.
"""
