//! The embedded event log and the Parquet lake behind it.
