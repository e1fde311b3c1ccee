//! The ledger: what each stage did with what it took in. `seen = passed + filtered + dropped{reason} + held`, for each
//! kind, and what one stage passed is what the next has seen.

use std::collections::BTreeMap;

use crate::event::{Kind, UnknownKind};

macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal $word:literal),* $(,)? }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $number),* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word used in output.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl TryFrom<u8> for $name {
            type Error = UnknownKind;

            fn try_from(number: u8) -> Result<Self, UnknownKind> {
                let found = $name::ALL.iter().copied().find(|item| *item as u8 == number);
                found.ok_or_else(|| UnknownKind(number.to_string()))
            }
        }
    };
}

words! {
    /// A place on the way of an event, in the order it passes them.
    Stage {
        /// The kernel's hook, up to its ring: seen = records it meant to write.
        Kernel = 1 "kernel",
        /// Decoding and enrichment in the sensor worker.
        Sensor = 2 "sensor",
        /// Judging by rules and detectors.
        Detect = 3 "detect",
        /// The queue from the agent to the server.
        Uplink = 4 "uplink",
        /// The server's end of that queue.
        Ingest = 5 "ingest",
        /// The durable log in front of the lake.
        Log = 6 "log",
        /// Rows in Parquet files.
        Lake = 7 "lake",
    }
}

words! {
    /// Why something was dropped.
    DropReason {
        /// The kernel ring had no room.
        RingFull = 1 "ring_full",
        /// The kernel side could not read what it needed.
        KernelFault = 2 "kernel_fault",
        /// Bytes that are no record.
        Malformed = 3 "malformed",
        /// The kernel's own queue of a fanotify group or netlink socket overflowed (counted as overflows, the kernel does
        /// not say how many events each one cost).
        SourceOverflow = 4 "source_overflow",
        /// The outbound queue was full.
        QueueFull = 5 "queue_full",
        /// The store could not take it.
        StoreFailed = 6 "store_failed",
        /// A limit on the rate was reached.
        RateLimited = 7 "rate_limited",
        /// The spool on the host's disk was full: older records made room, or a new one was refused.
        SpoolFull = 8 "spool_full",
        /// The spool could not be written, or could not be read again.
        SpoolFailed = 9 "spool_failed",
        /// The process that held it was killed or crashed.
        ProcessEnded = 10 "process_ended",
        /// The worker was near its limits, and this kind was given up first.
        Shed = 11 "shed",
    }
}

/// The counts of one stage for one kind, since the agent's (or server's) start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Taken in.
    pub seen: u64,
    /// Handed on.
    pub passed: u64,
    /// Left out on purpose.
    pub filtered: u64,
    /// Lost, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Still here.
    pub held: u64,
}

impl Counts {
    /// Sum of all drops.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Whether the books of this stage close.
    pub fn balanced(&self) -> bool {
        self.seen == self.passed + self.filtered + self.dropped_total() + self.held
    }

    /// Adds what another part of the same stage counted.
    pub fn add(&mut self, other: &Counts) {
        self.seen += other.seen;
        self.passed += other.passed;
        self.filtered += other.filtered;
        self.held += other.held;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(*reason).or_default() += count;
        }
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// The stage.
    pub stage: Stage,
    /// The kind of event.
    pub kind: Kind,
    /// What it did with them.
    pub counts: Counts,
}

/// All counts of a run of stages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Books {
    rows: BTreeMap<(Stage, Kind), Counts>,
}

impl Books {
    /// The counts of a stage and kind, to add to.
    pub fn entry(&mut self, stage: Stage, kind: Kind) -> &mut Counts {
        self.rows.entry((stage, kind)).or_default()
    }

    /// The counts of a stage and kind, if any were kept.
    pub fn get(&self, stage: Stage, kind: Kind) -> Option<&Counts> {
        self.rows.get(&(stage, kind))
    }

    /// The lines, by stage, then kind.
    pub fn rows(&self) -> impl Iterator<Item = LedgerRow> + '_ {
        self.rows.iter().map(|((stage, kind), counts)| LedgerRow {
            stage: *stage,
            kind: *kind,
            counts: counts.clone(),
        })
    }

    /// Adds all lines of `other`.
    pub fn add(&mut self, other: &Books) {
        for ((stage, kind), counts) in &other.rows {
            self.entry(*stage, *kind).add(counts);
        }
    }

    /// What does not close: a stage whose own sum is off, or two neighbours where the later has not seen what the
    /// earlier passed. Empty when the books balance.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for ((stage, kind), counts) in &self.rows {
            if !counts.balanced() {
                faults.push(format!(
                    "{} {}: seen {} is not the sum of the rest",
                    stage.as_str(),
                    kind.as_str(),
                    counts.seen
                ));
            }
            let next = Stage::ALL.iter().copied().find(|later| later > stage && self.holds_stage(*later));
            let Some(next) = next else { continue };
            let seen = self.get(next, *kind).map_or(0, |counts| counts.seen);
            if seen != counts.passed {
                faults.push(format!(
                    "{}: {} passed {}, {} saw {}",
                    kind.as_str(),
                    stage.as_str(),
                    counts.passed,
                    next.as_str(),
                    seen
                ));
            }
        }
        faults
    }

    fn holds_stage(&self, stage: Stage) -> bool {
        self.rows.range((stage, Kind::Exec)..).next().is_some_and(|((first, _), _)| *first == stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(seen: u64, passed: u64, dropped: u64, held: u64) -> Counts {
        Counts {
            seen,
            passed,
            dropped: BTreeMap::from([(DropReason::RingFull, dropped)]),
            held,
            ..Counts::default()
        }
    }

    #[test]
    fn a_stage_that_loses_without_a_reason_is_a_fault() {
        let mut books = Books::default();
        *books.entry(Stage::Kernel, Kind::Exec) = counts(10, 7, 2, 1);
        assert!(books.faults().is_empty());
        books.entry(Stage::Kernel, Kind::Exec).passed = 6;
        assert_eq!(books.faults().len(), 1);
    }

    #[test]
    fn neighbours_must_agree_on_what_crossed_between_them() {
        let mut books = Books::default();
        *books.entry(Stage::Kernel, Kind::Exec) = counts(10, 10, 0, 0);
        *books.entry(Stage::Sensor, Kind::Exec) = counts(9, 9, 0, 0);
        assert_eq!(books.faults(), ["exec: kernel passed 10, sensor saw 9"]);
        // A kind that never reached the later stage is a fault too.
        *books.entry(Stage::Kernel, Kind::Fork) = counts(1, 1, 0, 0);
        assert_eq!(books.faults().len(), 2);
    }

    #[test]
    fn a_stage_that_only_knows_the_last_kind_is_a_neighbour_too() {
        let last = *Kind::ALL.last().unwrap();
        let mut books = Books::default();
        *books.entry(Stage::Kernel, last) = counts(3, 3, 0, 0);
        *books.entry(Stage::Sensor, last) = counts(2, 2, 0, 0);
        assert_eq!(books.faults().len(), 1);
    }
}
