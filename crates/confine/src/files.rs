//! Landlock: which files a process may read, write and execute.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope, path_beneath_rules,
};

use crate::measure::Outcome;

/// What is asked of the kernel where it can: rights up to ioctl on devices (Linux 6.10), signals (6.12). Higher versions
/// add rights that a worker would have to be given back.
const FILE_RIGHTS: ABI = ABI::V5;

/// Files a process may use by path; descriptors it has open already are not touched. A path that does not exist grants
/// nothing. A directory grants what is below it.
///
/// A process under Landlock may not look into processes outside: `/proc/PID/exe`, `fd`, `environ`, `maps` and the like are
/// refused, whatever capabilities it has, because that counts as tracing. A worker whose work is to inspect other
/// processes cannot have this measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAccess {
    /// May be read and listed.
    pub read: Vec<PathBuf>,
    /// May be written, made and removed, and read as well.
    pub write: Vec<PathBuf>,
    /// May be executed. A dynamic executable needs its loader here too. With none, nothing can be executed.
    pub execute: Vec<PathBuf>,
    /// Whether it may send signals to processes outside (refused from Linux 6.12 on; not before).
    pub signal_others: bool,
}

impl Default for FileAccess {
    /// Everything may be read, nothing written or executed, no one signalled.
    fn default() -> Self {
        FileAccess {
            read: vec![PathBuf::from("/")],
            write: Vec::new(),
            execute: Vec::new(),
            signal_others: false,
        }
    }
}

impl FileAccess {
    /// Makes the ruleset, here and now, with as much as this kernel can; `None` when it can nothing.
    pub(crate) fn ruleset(&self) -> (Option<OwnedFd>, Outcome) {
        let (ruleset, short) = match self.build(CompatLevel::HardRequirement) {
            Ok(ruleset) => (Ok(ruleset), None),
            Err(error) => (self.build(CompatLevel::BestEffort), Some(error.to_string())),
        };
        match (ruleset, short) {
            (Ok(Some(fd)), None) => (Some(fd), Outcome::Held),
            (Ok(Some(fd)), Some(short)) => (Some(fd), Outcome::InPart(short)),
            (Ok(None), _) => (None, Outcome::NotHeld("this kernel has no Landlock, or it is off".to_owned())),
            (Err(error), _) => (None, Outcome::NotHeld(error.to_string())),
        }
    }

    fn build(&self, level: CompatLevel) -> Result<Option<OwnedFd>, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::from_write(FILE_RIGHTS) | read;
        let execute: BitFlags<AccessFs> = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
        let mut ruleset =
            Ruleset::default().set_compatibility(level).handle_access(AccessFs::from_all(FILE_RIGHTS))?;
        if !self.signal_others {
            ruleset = ruleset.scope(Scope::Signal)?;
        }
        let ruleset = ruleset
            .create()?
            .add_rules(path_beneath_rules(&self.read, read))?
            .add_rules(path_beneath_rules(&self.write, write))?
            .add_rules(path_beneath_rules(&self.execute, execute))?;
        Ok(ruleset.into())
    }
}
