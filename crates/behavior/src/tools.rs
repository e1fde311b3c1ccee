//! What a behaviour needs of the host, and where the host keeps it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where programs are looked for before the caller's own PATH. The system's folders come first, so that a wrapper script in
/// a user's PATH (version managers install such) does not stand between a behaviour and the program it means.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Something a behaviour cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Effective uid 0.
    Root,
    /// A program on PATH.
    Tool(&'static str),
    /// `busybox` with an applet that knows the given option (builds differ).
    Busybox {
        /// The applet.
        applet: &'static str,
        /// A word its usage text must hold.
        option: &'static str,
    },
}

/// What is absent, for people: `python3 is not on PATH`; `None` when everything is there.
pub fn missing(needs: &[Need]) -> Option<String> {
    let absent: Vec<String> = needs.iter().filter_map(|need| absence(*need)).collect();
    (!absent.is_empty()).then(|| absent.join("; "))
}

fn absence(need: Need) -> Option<String> {
    match need {
        Need::Root => (!rustix::process::geteuid().is_root()).then(|| "must be root".to_owned()),
        Need::Tool(name) => find(name).is_none().then(|| format!("{name} is not on PATH")),
        Need::Busybox { applet, option } => busybox_absence(applet, option),
    }
}

fn busybox_absence(applet: &str, option: &str) -> Option<String> {
    let Some(busybox) = find("busybox") else {
        return Some("busybox is not on PATH".to_owned());
    };
    let usage = std::process::Command::new(busybox).args([applet, "--help"]).output().ok()?;
    let text = [usage.stdout, usage.stderr].concat();
    let known = String::from_utf8_lossy(&text).contains(option);
    (!known).then(|| format!("busybox {applet} has no {option}"))
}

/// The PATH that children get.
pub(crate) fn search_path() -> String {
    match std::env::var("PATH") {
        Ok(own) if !own.is_empty() => format!("{SYSTEM_PATH}:{own}"),
        _ => SYSTEM_PATH.to_owned(),
    }
}

/// The first executable file of that name on [`search_path`].
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = search_path();
    let mut candidates = path.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join(name));
    candidates.find(|candidate| {
        let metadata = candidate.metadata();
        metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missed_and_what_is_not_is_named() {
        assert_eq!(missing(&[Need::Tool("sh")]), None);
        let reason = missing(&[Need::Tool("sh"), Need::Tool("no-such-tool-7")]).expect("one is absent");
        assert_eq!(reason, "no-such-tool-7 is not on PATH");
    }

    #[test]
    fn the_systems_folders_come_before_the_callers() {
        let shell = find("sh").expect("every Linux has sh");
        assert!(shell == Path::new("/usr/bin/sh") || shell == Path::new("/bin/sh"), "{}", shell.display());
    }
}
