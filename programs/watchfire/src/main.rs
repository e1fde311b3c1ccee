//! Everything but the agent: the server, the operator's commands, and all of it on one machine.
fn main() {}
