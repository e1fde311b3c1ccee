//! Every behaviour of `watchfire-behavior` on a running `watchfire up`: its rule speaks of it within 5 s, and stays quiet about
//! its benign twin.
//!
//! A test program of its own (`harness = false`), because its first act must be to ask whether it is a behaviour's child. An
//! argument chooses behaviours by a part of their name.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use watchfire_behavior::{
    BEHAVIORS, Behavior, BehaviorError, Stage, clean_up_when_interrupted, mentions, missing,
};
use watchfire_event::UnixNanos;
use watchfire_tests::{Ground, Installation, eventually, obstacle};

/// From the end of the behaviour to the alert.
const ALERT_WITHIN: Duration = Duration::from_secs(5);
/// From the last sign of life after the last twin.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// Rules that no harmless behaviour can make speak, each for its reason.
const WITHOUT_BEHAVIOR: &[(&str, &str)] =
    &[("privilege_gained", "only a fault of the kernel makes it happen")];
/// Performed after the twins: when its alert is there, what came before has been judged.
const LAST: &str = "exec_world_writable/program";

fn main() -> ExitCode {
    watchfire_behavior::child_main_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        BEHAVIORS.iter().for_each(|behavior| println!("{}: test", behavior.name));
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = obstacle() {
        println!("skipped: pack: {reason}\n{}", summary(0, 0, 1, Duration::ZERO));
        return ExitCode::SUCCESS;
    }
    let parts: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()));
    let behaviors: Vec<&Behavior> = BEHAVIORS.iter().filter(|behavior| chosen(behavior.name)).collect();
    let began = Instant::now();
    match run(&behaviors) {
        Ok(rows) => report(&rows, began.elapsed()),
        Err(error) => {
            println!("pack: {error:#}\n{}", summary(0, 1, 0, began.elapsed()));
            ExitCode::FAILURE
        }
    }
}

/// One line of the table.
struct Row {
    name: String,
    verdict: Verdict,
    /// Other rules that spoke of it.
    others: Vec<String>,
}

enum Verdict {
    /// Milliseconds from the kernel's sight to the stored alert, as the alert says.
    Seen(Option<f64>),
    Quiet,
    Skipped(String),
    Failed(String),
}

/// A twin that was performed.
struct Twin {
    behavior: &'static Behavior,
    marks: Vec<String>,
}

fn run(behaviors: &[&'static Behavior]) -> Result<Vec<Row>> {
    clean_up_when_interrupted().context("prepare for signals")?;
    let ground = Ground::new()?;
    let log = ground.path("auth.log");
    std::fs::write(&log, "").context("make a login log")?;
    ground
        .configure_agent(&json!({ "logins": { "logs": [log] }, "modules": { "hooks": "every_syscall" } }))?;
    let up = ground.start()?;
    let stage = || Stage::new().map(|stage| stage.with_auth_log(&log));

    let mut rows = rules_without_behavior();
    for behavior in behaviors {
        let verdict = match missing(behavior.needs) {
            Some(reason) => (Verdict::Skipped(reason), Vec::new()),
            None => attack(&up, behavior, &stage()?)?,
        };
        println!("test {} attack ... {}", behavior.name, word(&verdict.0));
        rows.push(Row { name: format!("{} attack", behavior.name), verdict: verdict.0, others: verdict.1 });
    }
    let mut twins = Vec::new();
    for behavior in behaviors.iter().filter(|behavior| missing(behavior.needs).is_none()) {
        let stage = stage()?;
        let marks = stage.marks();
        match (behavior.benign)(&stage) {
            Ok(()) => twins.push(Twin { behavior, marks }),
            Err(error) => rows.push(not_performed(format!("{} benign", behavior.name), error)),
        }
    }
    await_everything_judged(&up, &stage()?)?;
    std::thread::sleep(QUIET_FOR);
    let alerts = up.alerts()?;
    for twin in &twins {
        let row = judge_twin(twin, &alerts)?;
        println!("test {} ... {}", row.name, word(&row.verdict));
        rows.push(row);
    }
    Ok(rows)
}

/// Each rule and detector of the pack must have a behaviour here.
fn rules_without_behavior() -> Vec<Row> {
    let slugs = watchfire_detect::pack().iter().map(|rule| rule.slug);
    let slugs = slugs.chain(watchfire_detect::detectors().map(|detector| detector.slug));
    let lacking = slugs.filter(|slug| BEHAVIORS.iter().all(|behavior| behavior.slug != *slug));
    let row = |slug: &str| {
        let excuse = WITHOUT_BEHAVIOR.iter().find(|(excused, _)| *excused == slug);
        let verdict = match excuse {
            Some((_, reason)) => Verdict::Skipped((*reason).to_owned()),
            None => Verdict::Failed("no behaviour makes this rule speak".to_owned()),
        };
        Row { name: slug.to_owned(), verdict, others: Vec::new() }
    };
    lacking.map(row).collect()
}

/// Performs the attack and waits for its alert.
fn attack(up: &Installation, behavior: &Behavior, stage: &Stage) -> Result<(Verdict, Vec<String>)> {
    let rule = rule_id(behavior.slug)?;
    let performed = match (behavior.attack)(stage) {
        Ok(performed) => performed,
        Err(error) => return Ok((not_performed(String::new(), error).verdict, Vec::new())),
    };
    // Whatever the preparations have caused is no merit of the rule.
    let began = performed.began.duration_since(std::time::UNIX_EPOCH).context("the clock is set")?;
    let began = UnixNanos(i64::try_from(began.as_nanos())?).to_string();
    let mut others = Vec::new();
    let seen = eventually(ALERT_WITHIN, || {
        let alerts = up.alerts()?;
        let mine = alerts.iter().filter(|(text, _)| performed.mentioned_in(text)).map(|(_, alert)| alert);
        let mine = mine.filter(|alert| alert["time"].as_str().is_some_and(|time| time >= began.as_str()));
        let (spoke, others_spoke): (Vec<&Value>, Vec<&Value>) =
            mine.partition(|alert| alert["rule"]["id"] == rule.as_str());
        others = rule_titles(others_spoke.into_iter());
        Ok(spoke.first().map(|alert| alert["latency_ms"].as_f64()))
    })?;
    let verdict = match seen {
        Some(latency) => Verdict::Seen(latency),
        None => {
            Verdict::Failed(format!("no alert of rule {} ({rule}) within {ALERT_WITHIN:?}", behavior.slug))
        }
    };
    Ok((verdict, others))
}

fn judge_twin(twin: &Twin, alerts: &[(String, Value)]) -> Result<Row> {
    let rule = rule_id(twin.behavior.slug)?;
    let mentioned = |text: &str| twin.marks.iter().any(|mark| mentions(mark, text));
    let mine: Vec<&(String, Value)> = alerts.iter().filter(|(text, _)| mentioned(text)).collect();
    let wrong = mine.iter().find(|(_, alert)| alert["rule"]["id"] == rule.as_str() && !is_clean_up(alert));
    let verdict = match wrong {
        None => Verdict::Quiet,
        Some((text, _)) => Verdict::Failed(format!("rule {} spoke of it: {text}", twin.behavior.slug)),
    };
    let others =
        rule_titles(mine.iter().map(|(_, alert)| alert).filter(|alert| alert["rule"]["id"] != rule.as_str()));
    Ok(Row { name: format!("{} benign", twin.behavior.name), verdict, others })
}

/// Whether the alert is about this program removing a stage, logs and all, after the twin was done.
fn is_clean_up(alert: &Value) -> bool {
    alert["process"]["tgid"] == std::process::id() && alert["kind"] == "file_unlink"
}

/// Events are judged in the order they come: once this alert is there, everything before it was judged.
fn await_everything_judged(up: &Installation, stage: &Stage) -> Result<()> {
    let last =
        BEHAVIORS.iter().find(|behavior| behavior.name == LAST).context("the last behaviour exists")?;
    match attack(up, last, stage)?.0 {
        Verdict::Failed(reason) => anyhow::bail!("the last behaviour, after all twins: {reason}"),
        _ => Ok(()),
    }
}

fn not_performed(name: String, error: BehaviorError) -> Row {
    let verdict = match error.unavailable() {
        Some(reason) => Verdict::Skipped(reason.to_owned()),
        None => Verdict::Failed(format!("{:#}", anyhow::Error::new(error).context("not performed"))),
    };
    Row { name, verdict, others: Vec::new() }
}

fn rule_titles<'a>(alerts: impl Iterator<Item = &'a Value>) -> Vec<String> {
    let mut titles: Vec<String> =
        alerts.map(|alert| alert["rule"]["title"].as_str().unwrap_or("?").to_owned()).collect();
    titles.sort();
    titles.dedup();
    titles
}

fn rule_id(slug: &str) -> Result<String> {
    let id = watchfire_detect::rule_id(slug).with_context(|| format!("the pack has no rule {slug}"))?;
    Ok(id.to_string())
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Seen(Some(latency)) => format!("ok ({latency:.0} ms)"),
        Verdict::Seen(None) | Verdict::Quiet => "ok".to_owned(),
        Verdict::Skipped(_) => "ignored".to_owned(),
        Verdict::Failed(_) => "FAILED".to_owned(),
    }
}

/// The table, the reasons, the sums.
fn report(rows: &[Row], took: Duration) -> ExitCode {
    println!("\n{:<44} {:>12}  other rules that spoke", "behaviour", "result");
    for row in rows {
        println!("{:<44} {:>12}  {}", row.name, word(&row.verdict), row.others.join(", "));
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for row in rows {
        match &row.verdict {
            Verdict::Seen(_) | Verdict::Quiet => passed += 1,
            Verdict::Skipped(reason) => {
                skipped += 1;
                println!("skipped: {}: {reason}", row.name);
            }
            Verdict::Failed(reason) => {
                failed += 1;
                println!("FAILED {}: {reason}", row.name);
            }
        }
    }
    println!("{}", summary(passed, failed, skipped, took));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As libtest writes it, so that whoever reads its output reads this.
fn summary(passed: u32, failed: u32, skipped: u32, took: Duration) -> String {
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let seconds = took.as_secs_f64();
    format!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; 0 filtered out; \
         finished in {seconds:.2}s"
    )
}
