"""The record: events, the values and errors in them, the incidents they are about, and the chain that seals them."""
