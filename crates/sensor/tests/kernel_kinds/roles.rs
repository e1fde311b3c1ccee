//! What this program does when it is executed as a child: `kernel_kinds role NAME MARK …`.

use std::ffi::OsString;
use std::process::ExitCode;

/// Plays the role named in the arguments, if one is.
pub(crate) fn play(args: &[OsString]) -> Option<ExitCode> {
    let is_role = args.get(1).is_some_and(|arg| arg == "role" || arg == "role exit7");
    if !is_role {
        return None;
    }
    let name = args.get(2).and_then(|arg| arg.to_str()).unwrap_or_default();
    Some(match name {
        "wait" => wait_for_signal(),
        "threads" => end_with_threads(),
        _ => ExitCode::from(7),
    })
}

fn wait_for_signal() -> ExitCode {
    std::thread::sleep(std::time::Duration::from_secs(60));
    ExitCode::FAILURE
}

/// Several threads that are alive when the process ends.
fn end_with_threads() -> ExitCode {
    for _ in 0..4 {
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)));
    }
    ExitCode::from(9)
}
