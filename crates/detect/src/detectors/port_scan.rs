//! Many failed connections in a short time: one host's ports tried one after another, or one port on many hosts.
//!
//! Only attempts that failed count; a crawler, a proxy or a monitor mostly succeeds. Attempts are counted for the process
//! and for its parent, so that a shell loop around `nc` is seen as one scan. Scans by raw packets make no connection
//! events and are not seen.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use watchfire_event::{Body, BootNanos, Kind, Level, Outcome, ProcessKey};
use watchfire_rule::KindSet;

use crate::detectors::{Detector, DetectorInfo, Finding, Sight};
use crate::memory::Expiring;

pub(crate) const INFO: DetectorInfo = DetectorInfo {
    slug: "port_scan",
    title: "Port scan from this host",
    description: "Within a minute one process, or the children of one, failed to connect to 16 ports of one host or to \
                  the same port of 32 hosts.",
    attack: &["T1046"],
    level: Level::Medium,
    falsepositives: "Monitoring and service discovery while a whole network is down.",
};

const PORTS: usize = 16;
const HOSTS: usize = 32;
const WINDOW: Duration = Duration::from_secs(60);
/// Processes watched at once.
const SCANNERS: usize = 1024;
/// Distinct attempts remembered for one process; more than any threshold needs.
const ATTEMPTS: usize = 64;
const ENETUNREACH: i32 = 101;
const EADDRNOTAVAIL: i32 = 99;

/// See the module.
pub(crate) struct PortScan {
    scanners: Expiring<ProcessKey, Attempts>,
}

/// Distinct targets of failed attempts, the one tried longest ago first.
#[derive(Default)]
struct Attempts(VecDeque<(BootNanos, SocketAddr)>);

impl Attempts {
    fn add(&mut self, at: BootNanos, target: SocketAddr) {
        self.0.retain(|(tried, known)| at.since(*tried) <= WINDOW && *known != target);
        if self.0.len() >= ATTEMPTS {
            self.0.pop_front();
        }
        self.0.push_back((at, target));
    }

    fn ports_of(&self, host: IpAddr) -> usize {
        self.0.iter().filter(|(_, target)| target.ip() == host).count()
    }

    fn hosts_with(&self, port: u16) -> usize {
        self.0
            .iter()
            .filter(|(_, target)| target.port() == port)
            .map(|(_, target)| target.ip())
            .collect::<HashSet<_>>()
            .len()
    }
}

impl PortScan {
    pub(crate) fn new() -> Self {
        PortScan { scanners: Expiring::new(SCANNERS, WINDOW) }
    }

    fn attempt(
        &mut self,
        scanner: ProcessKey,
        target: SocketAddr,
        at: BootNanos,
    ) -> Option<(&'static str, usize)> {
        let mut attempts = self.scanners.take(&scanner, at).unwrap_or_default();
        attempts.add(at, target);
        let (ports, hosts) = (attempts.ports_of(target.ip()), attempts.hosts_with(target.port()));
        self.scanners.insert(scanner, attempts, at);
        if ports >= PORTS {
            return Some(("ports", ports));
        }
        (hosts >= HOSTS).then_some(("hosts", hosts))
    }
}

impl Detector for PortScan {
    fn info(&self) -> &'static DetectorInfo {
        &INFO
    }

    fn wants(&self) -> KindSet {
        KindSet::of(&[Kind::Connect])
    }

    fn judge(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>) {
        let (process, at) = (&sight.event.process, sight.event.at);
        let Body::Connect(flow) = &sight.event.body else { return };
        match flow.outcome {
            Outcome::Succeeded | Outcome::Failed(ENETUNREACH | EADDRNOTAVAIL) => return,
            Outcome::Refused | Outcome::TimedOut | Outcome::Failed(_) => {}
        }
        // Everything descends from init; its children have nothing in common.
        let parent = process.parent.filter(|parent| parent.tgid > 2);
        for scanner in [Some(process.key), parent].into_iter().flatten() {
            let Some((what, count)) = self.attempt(scanner, flow.remote, at) else { continue };
            let object = if what == "ports" {
                flow.remote.ip().to_string()
            } else {
                format!("port {}", flow.remote.port())
            };
            let mut finding = Finding::about(process)
                .with(&format!("scan.{what}"), count.to_string())
                .with("scan.target", &object)
                .with("net.remote_ip", flow.remote.ip().to_string())
                .with("net.remote_port", flow.remote.port().to_string())
                .with("process.exe", &process.exe)
                .object(object);
            finding.on_account_of = Some(scanner);
            // Once is enough: the process itself, or else its parent.
            return out.push(finding);
        }
    }

    fn forgotten(&self) -> u64 {
        self.scanners.forgotten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::detectors::testing::{Stage, event, flow, process};

    fn refused(at: u64, tgid: u32, target: &str) -> watchfire_event::Event {
        event(
            at,
            process(tgid, 10, "/usr/bin/nc", &["nc", "-z"]),
            Body::Connect(flow(target, Outcome::Refused)),
        )
    }

    #[test]
    fn the_sixteenth_port_of_a_host_is_told_and_the_same_port_again_is_not_counted() {
        let mut stage = Stage::new(PortScan::new());
        for port in 1..16 {
            assert!(stage.see(&refused(1, 20, &format!("10.0.0.1:{port}"))).is_empty());
            assert!(stage.see(&refused(1, 20, "10.0.0.1:1")).is_empty());
        }
        let found = stage.see(&refused(2, 20, "10.0.0.1:16"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].matched[0].value, "16");
    }

    #[test]
    fn children_of_one_parent_scan_together() {
        let mut stage = Stage::new(PortScan::new());
        let found: usize =
            (1..=16).map(|n| stage.see(&refused(1, 20 + n, &format!("10.0.0.1:{n}"))).len()).sum();
        assert_eq!(found, 1);
    }

    #[test]
    fn a_sweep_over_hosts_is_told_and_successes_are_not_counted() {
        let mut stage = Stage::new(PortScan::new());
        let found: usize =
            (1..=32).map(|n| stage.see(&refused(1, 20, &format!("10.0.0.{n}:22"))).len()).sum();
        assert_eq!(found, 1);
        let mut stage = Stage::new(PortScan::new());
        for n in 1..=100 {
            let body = Body::Connect(flow(&format!("10.0.0.1:{n}"), Outcome::Succeeded));
            assert!(stage.see(&event(1, process(20, 10, "/usr/bin/curl", &["curl"]), body)).is_empty());
        }
    }

    proptest! {
        /// Against a plain list of everything ever tried by one process, whose parent is init.
        #[test]
        fn it_tells_what_a_list_of_all_attempts_would(steps in prop::collection::vec((0u64..9, 1u16..30), 1..120)) {
            let mut stage = Stage::new(PortScan::new());
            let mut all: Vec<(u64, u16)> = Vec::new();
            let mut now = 0;
            for (pause, port) in steps {
                now += pause;
                all.push((now, port));
                let recent: BTreeSet<u16> = all.iter().filter(|(at, _)| now - at <= 60).map(|(_, port)| *port).collect();
                let scanner = process(20, 1, "/usr/bin/nc", &["nc"]);
                let body = Body::Connect(flow(&format!("10.0.0.1:{port}"), Outcome::TimedOut));
                prop_assert_eq!(stage.see(&event(now, scanner, body)).len(), usize::from(recent.len() >= PORTS));
            }
        }
    }
}
