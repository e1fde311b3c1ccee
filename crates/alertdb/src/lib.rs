//! Alerts and hosts in SQLite.
