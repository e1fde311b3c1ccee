//! The agent: master, workers, outbound queues.
