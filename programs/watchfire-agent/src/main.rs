//! The agent on each host.
fn main() {}
