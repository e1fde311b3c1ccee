//! `watchfire demo`: a handful of attackers' moves, performed here for real and harmlessly, and what came of each.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use watchfire_behavior::{
    BEHAVIORS, Behavior, BehaviorError, Performed, Stage, clean_up_when_interrupted, missing,
};

use crate::cli::{DemoOptions, Target};
use crate::client::{Client, list_path};
use crate::screen::{OutputError, Screen};
use crate::table::{Cell, Colour, Table};

/// An alert that has not come by then is missed: twenty times the aim for the slowest hundredth.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const HEAD: &[&str] = &["BEHAVIOUR", "RULE", "ALERT", "MS"];

/// What came of one behaviour.
enum Outcome {
    /// Milliseconds from the kernel's sight of it to the stored alert.
    Seen(f64),
    Missed,
    /// The host lacks something it needs.
    Skipped(String),
    Failed(String),
}

/// Runs the demo; false when a behaviour was missed or could not be performed.
pub(crate) fn run(target: &Target, options: &DemoOptions) -> anyhow::Result<bool> {
    let client = Client::new(target)?;
    clean_up_when_interrupted().context("prepare to clean up after an interrupt")?;
    let mut screen = Screen::new();
    let mut table = Table::new(HEAD);
    let mut good = true;
    for behavior in BEHAVIORS.iter().filter(|behavior| behavior.demo || options.all) {
        let outcome = perform(behavior, &client)?;
        good &= matches!(outcome, Outcome::Seen(_) | Outcome::Skipped(_));
        if options.json {
            writeln!(screen, "{}", json(behavior, &outcome)).map_err(OutputError)?;
            screen.flush().map_err(OutputError)?;
        } else {
            table.push(row(behavior, &outcome));
        }
    }
    if !options.json {
        let (width, colour) = (screen.width, screen.colour);
        table.write(&mut screen, width, colour).map_err(OutputError)?;
        screen.flush().map_err(OutputError)?;
    }
    Ok(good)
}

fn perform(behavior: &Behavior, client: &Client) -> anyhow::Result<Outcome> {
    if let Some(lacking) = missing(behavior.needs) {
        return Ok(Outcome::Skipped(lacking));
    }
    let rule = watchfire_agent::rule_id(behavior.slug)
        .with_context(|| format!("{}: no rule {} is in the pack", behavior.name, behavior.slug))?;
    let stage = Stage::new()?;
    let performed = match (behavior.attack)(&stage) {
        Ok(performed) => performed,
        Err(error) => return Ok(failed(error)),
    };
    let outcome = wait_for_alert(client, rule, &performed)?;
    stage.close()?;
    Ok(outcome)
}

fn failed(error: BehaviorError) -> Outcome {
    match error.unavailable() {
        Some(lacking) => Outcome::Skipped(lacking.to_owned()),
        None => Outcome::Failed(format!("{:#}", anyhow::Error::new(error))),
    }
}

fn wait_for_alert(client: &Client, rule: &str, performed: &Performed) -> anyhow::Result<Outcome> {
    let path = list_path(
        "/api/v1/alerts",
        &[
            ("rule", Some(rule.to_owned())),
            ("since", Some("2m".to_owned())),
            ("limit", Some("200".to_owned())),
        ],
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut latency = None;
        client.for_each(&path, |alert: Value| {
            if performed.mentioned_in(&alert.to_string()) {
                latency = alert.get("latency_ms").and_then(Value::as_f64);
            }
        })?;
        if let Some(latency) = latency {
            return Ok(Outcome::Seen(latency));
        }
        if Instant::now() >= deadline {
            return Ok(Outcome::Missed);
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn row(behavior: &Behavior, outcome: &Outcome) -> Vec<Cell> {
    let (word, colour, ms) = match outcome {
        Outcome::Seen(ms) => ("seen".to_owned(), None, format!("{ms:.0}")),
        Outcome::Missed => ("MISSED".to_owned(), Some(Colour::Red), "-".to_owned()),
        Outcome::Skipped(why) => (format!("skipped: {why}"), None, "-".to_owned()),
        Outcome::Failed(why) => (format!("FAILED: {why}"), Some(Colour::Red), "-".to_owned()),
    };
    vec![
        Cell::new(behavior.title.en),
        Cell::new(behavior.slug),
        Cell::new(word).coloured(colour),
        Cell::number(ms),
    ]
}

fn json(behavior: &Behavior, outcome: &Outcome) -> Value {
    let (word, ms, why) = match outcome {
        Outcome::Seen(ms) => ("seen", Some(*ms), None),
        Outcome::Missed => ("missed", None, None),
        Outcome::Skipped(why) => ("skipped", None, Some(why)),
        Outcome::Failed(why) => ("failed", None, Some(why)),
    };
    serde_json::json!({
        "behavior": behavior.name, "title": behavior.title.en, "rule": behavior.slug, "outcome": word, "latency_ms": ms, "why": why,
    })
}
