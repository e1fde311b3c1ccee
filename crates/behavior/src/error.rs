//! What can go wrong while a behaviour is performed.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a behaviour was not performed, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum BehaviorError {
    /// This host lacks what the behaviour needs. Report it as skipped, with this reason.
    #[error("{0}")]
    Unavailable(String),
    /// A file or folder of the stage.
    #[error("{attempt} {}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A child could not be started.
    #[error("start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A child ran into its deadline and was killed.
    #[error("{program}: still running after {after:?}; killed")]
    Deadline {
        /// The program.
        program: String,
        /// The deadline.
        after: Duration,
    },
    /// A child ended otherwise than it must.
    #[error("{program}: {status}: {output}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote, escaped.
        output: String,
    },
    /// A socket of the stage, or a system call of one of its helpers.
    #[error("{attempt}")]
    Call {
        /// What was attempted.
        attempt: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The behaviour ran, but did not do what it is for.
    #[error("{attempt}: got {got:?}")]
    Unexpected {
        /// What was attempted.
        attempt: &'static str,
        /// What came instead, escaped.
        got: String,
    },
    /// The program was told to stop; nothing more is started.
    #[error("interrupted")]
    Interrupted,
    /// Something outlived its stage.
    #[error("left behind: {0}")]
    LeftBehind(String),
}

impl BehaviorError {
    /// The reason, if this host merely lacks something.
    pub fn unavailable(&self) -> Option<&str> {
        match self {
            BehaviorError::Unavailable(reason) => Some(reason),
            _ => None,
        }
    }

    pub(crate) fn call(attempt: &'static str) -> impl FnOnce(io::Error) -> BehaviorError {
        move |source| BehaviorError::Call { attempt, source }
    }

    pub(crate) fn errno(attempt: &'static str) -> impl FnOnce(rustix::io::Errno) -> BehaviorError {
        move |errno| BehaviorError::Call { attempt, source: errno.into() }
    }
}
