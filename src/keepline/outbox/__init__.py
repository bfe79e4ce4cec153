"""The durable queue: a journal, where producers append, and a ledger, which knows what became of each."""
