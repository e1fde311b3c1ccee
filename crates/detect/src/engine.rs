//! One event in, alerts out.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use watchfire_event::{
    Alert, AlertId, AlertTimes, Body, BootNanos, Event, Kind, Level, MatchedField, Process, ProcessKey,
    ProcessNode, RuleId, StreamId, UnixNanos,
};
use watchfire_rule::{MATCHED_FIELDS, RuleSet, RuleSetCounts};

use crate::detectors::{self, Detector, Finding, Scene, Sight};
use crate::lineage::Lineage;
use crate::settings::DetectSettings;
use crate::suppress::{Likeness, Speak, Suppressor};

/// The deepest process tree an alert carries.
const TREE: usize = 64;

/// Judges events, one after another, in the order of their times as far as the sources can keep it.
pub struct Engine {
    rules: RuleSet,
    detectors: Vec<Box<dyn Detector>>,
    scene: Scene,
    suppressor: Suppressor,
    disabled: HashSet<String>,
    stream: StreamId,
    booted: UnixNanos,
    sequence: u64,
    counts: DetectCounts,
}

/// What the engine did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DetectCounts {
    /// Events that were judged.
    pub judged: u64,
    /// Alerts that were raised.
    pub alerts: u64,
    /// Verdicts held back because the same was told a moment ago; the next alert of their kind tells how many.
    pub suppressed: u64,
    /// Verdicts of rules that the settings silence.
    pub disabled: u64,
    /// Evaluations given up because the rule library panicked.
    pub panics: u64,
    /// Entries that detectors had to forget because a table was full.
    pub forgotten: u64,
}

/// A verdict of a rule or a detector on its way to become an alert.
struct Case<'c> {
    id: &'c str,
    title: &'c str,
    level: Level,
    attack: Vec<String>,
    matched: Vec<MatchedField>,
    process: &'c Arc<Process>,
}

impl Engine {
    /// An engine for one run of an agent: `stream` names it, `booted` is the wall time of the host's boot.
    pub fn new(rules: RuleSet, settings: &DetectSettings, stream: StreamId, booted: UnixNanos) -> Self {
        let disabled: HashSet<String> = settings.disabled.iter().cloned().collect();
        let mut detectors = detectors::all();
        detectors.retain(|detector| !disabled.contains(detector.info().slug));
        Engine {
            rules,
            detectors,
            scene: Scene::new(),
            suppressor: Suppressor::new(settings.quiet),
            disabled,
            stream,
            booted,
            sequence: 0,
            counts: DetectCounts::default(),
        }
    }

    /// Judges one event. `lineage` is asked only when a detector needs ancestors or an alert is made; `now` gives the time
    /// of the verdict; alerts go into `sink` in the order of their sequence numbers.
    pub fn judge(
        &mut self,
        event: &Event,
        lineage: &dyn Lineage,
        now: impl Fn() -> BootNanos,
        sink: &mut dyn FnMut(Alert),
    ) {
        self.counts.judged += 1;
        for verdict in self.rules.evaluate(event) {
            let rule = verdict.rule;
            if self.disabled.contains(&rule.id) {
                self.counts.disabled += 1;
                continue;
            }
            let spoken = self.suppressor.ask(
                &rule.id,
                event.process.key,
                likeness(&event.process, event),
                Object(&event.body, &event.process),
                event.at,
            );
            let case = Case {
                id: &rule.id,
                title: &rule.title,
                level: rule.level,
                attack: rule.attack.clone(),
                matched: verdict.matched,
                process: &event.process,
            };
            self.speak(spoken, case, event, lineage, &now, sink);
        }
        self.detect(event, lineage, &now, sink);
    }

    /// What the engine did so far.
    pub fn counts(&self) -> DetectCounts {
        let RuleSetCounts { panics, .. } = self.rules.counts();
        let forgotten =
            self.detectors.iter().map(|detector| detector.forgotten()).sum::<u64>() + self.scene.forgotten();
        DetectCounts { panics, forgotten, ..self.counts }
    }

    /// Number of the last alert; 0 before the first.
    pub fn last_sequence(&self) -> u64 {
        self.sequence
    }

    /// Takes the place of an engine of the same stream whose last alert had this number.
    pub fn continue_after(&mut self, sequence: u64) {
        self.sequence = self.sequence.max(sequence);
    }

    /// The rules this engine asks.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    fn detect(
        &mut self,
        event: &Event,
        lineage: &dyn Lineage,
        now: &dyn Fn() -> BootNanos,
        sink: &mut dyn FnMut(Alert),
    ) {
        let kind = event.kind();
        if Scene::wants(kind) {
            self.scene.note(event);
        }
        let mut findings: Vec<Finding> = Vec::new();
        let mut told: Vec<(&'static detectors::DetectorInfo, Finding)> = Vec::new();
        let sight = Sight { event, scene: &self.scene, lineage };
        for detector in self.detectors.iter_mut().filter(|detector| detector.wants().holds(kind)) {
            detector.judge(&sight, &mut findings);
            let info = detector.info();
            told.extend(findings.drain(..).map(|finding| (info, finding)));
        }
        for (info, finding) in told {
            let account: ProcessKey = finding.on_account_of.unwrap_or(finding.process.key);
            let spoken = self.suppressor.ask(
                info.slug,
                account,
                likeness(&finding.process, event),
                &finding.object,
                event.at,
            );
            let case = Case {
                id: info.slug,
                title: info.title,
                level: finding.level.unwrap_or(info.level),
                attack: info.attack.iter().map(|id| (*id).to_owned()).collect(),
                matched: finding.matched,
                process: &finding.process,
            };
            self.speak(spoken, case, event, lineage, now, sink);
        }
    }

    fn speak(
        &mut self,
        spoken: Speak,
        mut case: Case<'_>,
        event: &Event,
        lineage: &dyn Lineage,
        now: &dyn Fn() -> BootNanos,
        sink: &mut dyn FnMut(Alert),
    ) {
        let Speak::Yes { repeated } = spoken else {
            self.counts.suppressed += 1;
            return;
        };
        case.matched.truncate(MATCHED_FIELDS - usize::from(repeated > 0));
        if repeated > 0 {
            case.matched
                .push(MatchedField { name: "alert.repeated".to_owned(), value: repeated.to_string() });
        }
        self.sequence += 1;
        self.counts.alerts += 1;
        sink(Alert {
            id: AlertId::derive(self.stream, self.sequence),
            sequence: self.sequence,
            rule: RuleId { id: case.id.to_owned(), title: case.title.to_owned() },
            attack: case.attack,
            level: case.level,
            kind: event.kind(),
            matched: case.matched,
            tree: tree(case.process, event, lineage),
            times: AlertTimes {
                kernel: event.at,
                decoded: event.decoded,
                judged: now(),
                stored: None,
                booted: self.booted,
            },
        });
    }
}

/// The process and its ancestors, nearest first; cut at [`TREE`], and at a circle that bad data might hold.
fn tree(process: &Arc<Process>, event: &Event, lineage: &dyn Lineage) -> Vec<ProcessNode> {
    let mut chain = vec![Arc::clone(process)];
    let mut ancestors = lineage.parents(process);
    if ancestors.is_empty() && process.key == event.process.key {
        ancestors.extend(event.parent.clone());
    }
    for ancestor in ancestors {
        if chain.len() >= TREE || chain.iter().any(|known| known.key == ancestor.key) {
            break;
        }
        chain.push(ancestor);
    }
    chain.into_iter().map(|process| ProcessNode { process }).collect()
}

/// A program run again and again is one case; other deeds of many processes are told apart by their objects.
fn likeness<'p>(process: &'p Process, event: &'p Event) -> Option<Likeness<'p>> {
    let parent_exe = event.parent.as_ref().map_or(&[][..], |parent| &parent.exe);
    (event.kind() == Kind::Exec).then_some(Likeness {
        exe: &process.exe,
        parent_exe,
        uid: process.credentials.uid,
    })
}

/// What an event is about, beyond its process: what sets two matches of one rule on one process apart. A file that is
/// created, written and given a mode is one object.
struct Object<'o>(&'o Body, &'o Process);

impl Hash for Object<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Body::Exec => (&self.1.exe, &self.1.argv).hash(state),
            Body::File(file) => (&file.path, &file.new_path).hash(state),
            Body::Connect(flow) | Body::Accept(flow) | Body::UdpSend(flow) => flow.remote.hash(state),
            Body::Listen(flow) => flow.local.hash(state),
            Body::Ptrace(ptrace) => ptrace.target.hash(state),
            Body::Memfd { name } | Body::ModuleLoad { name, .. } | Body::BpfLoad { name, .. } => {
                name.hash(state)
            }
            Body::Mount(mount) => (&mount.source, &mount.target).hash(state),
            Body::Namespace(namespace) => namespace.flags.hash(state),
            Body::Login(login) => {
                (&login.user, login.remote.map(|remote| remote.ip()), login.accepted).hash(state)
            }
            Body::Fork { child } => child.hash(state),
            Body::Loss { source, .. } => source.hash(state),
            Body::Report(report) => report.hash(state),
            Body::Credentials { .. } | Body::Exit { .. } => Kind::hash(&self.0.kind(), state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_can_move_to_the_thread_that_judges() {
        fn is_send<T: Send>() {}
        is_send::<Engine>();
    }
}
