//! An alert in JSON.

use serde::Serialize;
use watchfire_event::{Alert, BootNanos, UnixNanos};

use super::process::ProcessView;

/// An alert as scripts see it.
#[derive(Debug, Serialize)]
pub(crate) struct AlertView<'a> {
    id: String,
    /// When the kernel saw what completed the match.
    time: String,
    host: &'a str,
    rule: RuleView<'a>,
    attack: &'a [String],
    kind: &'static str,
    process: Option<ProcessView<'a>>,
    /// From the kernel's sight to the stored alert.
    latency_ms: Option<f64>,
    times: TimesView,
    matched: Vec<MatchedView<'a>>,
    /// The process, then its parents, up to init as far as known.
    tree: Vec<ProcessView<'a>>,
}

#[derive(Debug, Serialize)]
struct RuleView<'a> {
    id: &'a str,
    title: &'a str,
    level: &'static str,
}

#[derive(Debug, Serialize)]
struct TimesView {
    kernel: String,
    decoded: String,
    judged: String,
    stored: Option<String>,
}

#[derive(Debug, Serialize)]
struct MatchedView<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> AlertView<'a> {
    /// The view of an alert from the host called `host`.
    pub(crate) fn new(alert: &'a Alert, host: &'a str) -> Self {
        let booted = alert.times.booted;
        let wall = |at: BootNanos| at.on_wall(booted).to_string();
        AlertView {
            id: alert.id.to_string(),
            time: wall(alert.times.kernel),
            host,
            rule: RuleView { id: &alert.rule.id, title: &alert.rule.title, level: alert.level.as_str() },
            attack: &alert.attack,
            kind: alert.kind.as_str(),
            process: alert.tree.first().map(|node| ProcessView::new(&node.process, booted)),
            latency_ms: alert.times.latency_ms(),
            times: TimesView {
                kernel: wall(alert.times.kernel),
                decoded: wall(alert.times.decoded),
                judged: wall(alert.times.judged),
                stored: alert.times.stored.map(|stored: UnixNanos| stored.to_string()),
            },
            matched: alert
                .matched
                .iter()
                .map(|field| MatchedView { name: &field.name, value: &field.value })
                .collect(),
            tree: alert.tree.iter().map(|node| ProcessView::new(&node.process, booted)).collect(),
        }
    }
}
