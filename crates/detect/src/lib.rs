//! Rules plus state over a stream of events, to alerts.
