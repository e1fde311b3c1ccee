//! What was tried, and what came of it.

use std::collections::BTreeMap;
use std::fmt;

/// One way of confining a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// A process group of its own: a signal to the agent's group does not reach it.
    ProcessGroup,
    /// Its own cgroup, in every hierarchy that is to be had: its members can be found and ended.
    Cgroup,
    /// No more CPU time than this share.
    CpuQuota,
    /// Its share of the CPUs when others want them too.
    CpuWeight,
    /// No more memory than this.
    MemoryLimit,
    /// No swap beyond the memory limit.
    SwapLimit,
    /// No more processes and threads than this.
    TaskLimit,
    /// The kernel ends it first when memory runs out.
    OomScore,
    /// Its place in the queue for the CPU.
    Nice,
    /// Its scheduling class.
    SchedulingPolicy,
    /// Its place in the queue for the disk.
    IoPriority,
    /// No core dumps.
    CoreDumps,
    /// No more descriptors than this.
    OpenFiles,
    /// No more address space than this.
    AddressSpace,
    /// Other user and group, no supplementary groups.
    User,
    /// Capabilities that nothing it executes can give it.
    CapabilityBounds,
    /// User 0 means no capabilities.
    RootWithoutPowers,
    /// The capabilities it has.
    Capabilities,
    /// It ends when its parent does.
    ParentDeath,
    /// Nothing it executes gains privileges.
    NoNewPrivileges,
    /// Files it may read, write, execute (Landlock).
    Files,
    /// System calls it may make (seccomp).
    Syscalls,
}

/// What came of a measure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It holds.
    Held,
    /// The kernel could do a part of it; why not all.
    InPart(String),
    /// It does not hold; why.
    NotHeld(String),
}

/// Which measures hold for a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied(BTreeMap<Measure, Outcome>);

impl Applied {
    /// Each measure that was asked for.
    pub fn iter(&self) -> impl Iterator<Item = (Measure, &Outcome)> {
        self.0.iter().map(|(measure, outcome)| (*measure, outcome))
    }

    /// What came of this measure; `None` when it was not asked for.
    pub fn get(&self, measure: Measure) -> Option<&Outcome> {
        self.0.get(&measure)
    }

    /// Those that were asked for and do not hold, or hold in part.
    pub fn shortfalls(&self) -> impl Iterator<Item = (Measure, &Outcome)> {
        self.iter().filter(|(_, outcome)| **outcome != Outcome::Held)
    }

    /// Notes an outcome; where a measure takes several steps, the worst of them counts.
    pub(crate) fn note(&mut self, measure: Measure, outcome: Outcome) {
        let known = self.0.entry(measure).or_insert(Outcome::Held);
        if outcome > *known {
            *known = outcome;
        }
    }

    pub(crate) fn note_result<E: fmt::Display>(&mut self, measure: Measure, result: Result<(), E>) {
        let outcome = result.map_or_else(|error| Outcome::NotHeld(error.to_string()), |()| Outcome::Held);
        self.note(measure, outcome);
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Measure::ProcessGroup => "process group",
            Measure::Cgroup => "cgroup",
            Measure::CpuQuota => "cpu quota",
            Measure::CpuWeight => "cpu weight",
            Measure::MemoryLimit => "memory limit",
            Measure::SwapLimit => "swap limit",
            Measure::TaskLimit => "task limit",
            Measure::OomScore => "oom score",
            Measure::Nice => "nice",
            Measure::SchedulingPolicy => "scheduling policy",
            Measure::IoPriority => "i/o priority",
            Measure::CoreDumps => "no core dumps",
            Measure::OpenFiles => "open files",
            Measure::AddressSpace => "address space",
            Measure::User => "user",
            Measure::CapabilityBounds => "capability bounds",
            Measure::RootWithoutPowers => "root without powers",
            Measure::Capabilities => "capabilities",
            Measure::ParentDeath => "ends with its parent",
            Measure::NoNewPrivileges => "no new privileges",
            Measure::Files => "files (landlock)",
            Measure::Syscalls => "system calls (seccomp)",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Held => f.write_str("holds"),
            Outcome::InPart(why) => write!(f, "holds in part: {why}"),
            Outcome::NotHeld(why) => write!(f, "does not hold: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_step_of_a_measure_counts() {
        let mut applied = Applied::default();
        applied.note(Measure::User, Outcome::Held);
        applied.note(Measure::User, Outcome::NotHeld("setgroups".into()));
        applied.note(Measure::User, Outcome::InPart("setgid".into()));
        applied.note(Measure::Nice, Outcome::Held);
        assert_eq!(applied.get(Measure::User), Some(&Outcome::NotHeld("setgroups".into())));
        assert_eq!(applied.shortfalls().count(), 1);
        assert_eq!(applied.get(Measure::Files), None);
    }
}
