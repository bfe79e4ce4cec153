"""What `keepline demo` runs on: a destination that records and misbehaves, and the seed's own measurement."""
