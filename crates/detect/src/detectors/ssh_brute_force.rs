//! Passwords tried until one was right: failed logins from one address, or for one user, and then a login with a password.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use watchfire_event::{Body, BootNanos, Kind, Level, LoginAttempt};
use watchfire_rule::KindSet;

use crate::detectors::{Detector, DetectorInfo, Finding, Sight};
use crate::memory::Expiring;

pub(crate) const INFO: DetectorInfo = DetectorInfo {
    slug: "ssh_brute_force_success",
    title: "Login after a series of failed ones",
    description: "At least five failed logins within ten minutes from one address, or for one user, followed by a login \
                  with a password from that address or of that user.",
    attack: &["T1110", "T1078"],
    level: Level::High,
    falsepositives: "A person who mistyped a password five times.",
};

const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(600);
const SUBJECTS: usize = 4096;
/// Failures remembered for one subject.
const REMEMBERED: usize = 32;
const USER_BYTES: usize = 64;

/// See the module.
pub(crate) struct SshBruteForce {
    by_address: Expiring<IpAddr, Failures>,
    by_user: Expiring<Vec<u8>, Failures>,
}

#[derive(Default)]
struct Failures(VecDeque<BootNanos>);

impl Failures {
    fn add(&mut self, at: BootNanos) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(at);
    }

    fn recent(&self, now: BootNanos) -> usize {
        self.0.iter().filter(|at| now.since(**at) <= WINDOW).count()
    }
}

impl SshBruteForce {
    pub(crate) fn new() -> Self {
        SshBruteForce {
            by_address: Expiring::new(SUBJECTS, WINDOW),
            by_user: Expiring::new(SUBJECTS, WINDOW),
        }
    }

    fn failed(&mut self, login: &LoginAttempt, at: BootNanos) {
        if let Some(remote) = login.remote {
            let ip = remote.ip().to_canonical();
            let mut failures = self.by_address.take(&ip, at).unwrap_or_default();
            failures.add(at);
            self.by_address.insert(ip, failures, at);
        }
        let user = user(login);
        let mut failures = self.by_user.take(&user, at).unwrap_or_default();
        failures.add(at);
        self.by_user.insert(user, failures, at);
    }
}

impl Detector for SshBruteForce {
    fn info(&self) -> &'static DetectorInfo {
        &INFO
    }

    fn wants(&self) -> KindSet {
        KindSet::of(&[Kind::Login])
    }

    fn judge(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>) {
        let at = sight.event.at;
        let Body::Login(login) = &sight.event.body else { return };
        if !login.accepted {
            return self.failed(login, at);
        }
        if !guessable(&login.method) {
            return;
        }
        let ip = login.remote.map(|remote| remote.ip().to_canonical());
        let from_here =
            ip.and_then(|ip| self.by_address.get(&ip, at)).map_or(0, |failures| failures.recent(at));
        let of_user = self.by_user.get(&user(login), at).map_or(0, |failures| failures.recent(at));
        if from_here.max(of_user) < FAILURES {
            return;
        }
        let mut finding = Finding::about(&sight.event.process)
            .with("login.user", &login.user)
            .with("login.method", &login.method)
            .with("login.service", &login.service)
            .with("failures.from_address", from_here.to_string())
            .with("failures.of_user", of_user.to_string())
            .object(format!("{ip:?} {}", String::from_utf8_lossy(&user(login))));
        if let Some(ip) = ip {
            finding = finding.with("login.remote_ip", ip.to_string());
        }
        out.push(finding);
    }

    fn forgotten(&self) -> u64 {
        self.by_address.forgotten() + self.by_user.forgotten()
    }
}

/// A key cannot be guessed; whatever else lets someone in may have been.
fn guessable(method: &[u8]) -> bool {
    !matches!(method, b"publickey" | b"hostbased" | b"gssapi-with-mic" | b"gssapi-keyex")
}

fn user(login: &LoginAttempt) -> Vec<u8> {
    login.user.iter().copied().take(USER_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detectors::testing::{Stage, event, login, process};

    fn attempt(at: u64, user: &str, remote: &str, method: &str, accepted: bool) -> watchfire_event::Event {
        event(at, process(7, 1, "/usr/sbin/sshd", &["sshd"]), login(user, remote, method, accepted))
    }

    #[test]
    fn five_failures_and_a_password_that_fits_are_told() {
        for (failures, told) in [(4, 0), (5, 1), (50, 1)] {
            let mut stage = Stage::new(SshBruteForce::new());
            for at in 0..failures {
                assert!(
                    stage.see(&attempt(at, &format!("u{at}"), "10.0.0.9:1000", "password", false)).is_empty()
                );
            }
            let found = stage.see(&attempt(60, "root", "10.0.0.9:1001", "password", true));
            assert_eq!(found.len(), told, "{failures}");
        }
    }

    #[test]
    fn a_user_tried_from_many_addresses_counts_and_a_key_or_a_stranger_does_not() {
        let mut stage = Stage::new(SshBruteForce::new());
        for at in 0..8 {
            stage.see(&attempt(at, "admin", &format!("10.0.{at}.1:1"), "password", false));
        }
        assert!(stage.see(&attempt(9, "admin", "10.9.9.9:1", "publickey", true)).is_empty());
        assert!(stage.see(&attempt(9, "other", "10.9.9.9:1", "password", true)).is_empty());
        assert_eq!(stage.see(&attempt(9, "admin", "10.9.9.9:1", "password", true)).len(), 1);
    }

    proptest! {
        /// Against a plain list of all failures from one address.
        #[test]
        fn it_counts_what_a_list_of_all_failures_would(steps in prop::collection::vec((0u64..400, any::<bool>()), 1..80)) {
            let mut stage = Stage::new(SshBruteForce::new());
            let mut failures: Vec<u64> = Vec::new();
            let mut now = 0;
            for (index, (pause, accepted)) in steps.into_iter().enumerate() {
                now += pause;
                let found = stage.see(&attempt(now, &format!("u{index}"), "10.0.0.9:1", "password", accepted)).len();
                let recent = failures.iter().filter(|at| now - **at <= 600).count();
                prop_assert_eq!(found, usize::from(accepted && recent >= FAILURES));
                if !accepted {
                    failures.push(now);
                }
            }
        }
    }
}
