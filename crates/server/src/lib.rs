//! The server roles of one machine: ingest, API, console.
