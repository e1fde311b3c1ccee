//! From a cgroup path to the container it belongs to.
//!
//! Runtimes name their cgroups in a few ways: the container's 64 hexadecimal digits alone (`/docker/ID`,
//! `/kubepods/…/podUID/ID`), as the end of a systemd scope (`docker-ID.scope`, `cri-containerd-ID.scope`,
//! `crio-ID.scope`, `libpod-ID.scope`) or behind a colon (`…slice:cri-containerd:ID`); LXC, nspawn and Fargate use names
//! of their own. The innermost match wins, so that a container inside a container is the inner one.

use watchfire_event::{ContainerId, printable};

/// Longest name kept of a container that is not named by digits.
const MAX_NAME: usize = 128;

/// The container behind a path of `/proc/PID/cgroup`; `None` on the host itself.
pub fn container_of_path(path: &[u8]) -> Option<ContainerId> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    (0..parts.len()).rev().find_map(|index| {
        let before = index.checked_sub(1).map_or(&b""[..], |before| parts[before]);
        by_digits(parts[index]).or_else(|| by_name(before, parts[index]))
    })
}

/// `ID`, `RUNTIME-ID.scope`, `SLICE:RUNTIME:ID`.
fn by_digits(part: &[u8]) -> Option<ContainerId> {
    let stem = part.strip_suffix(b".scope").unwrap_or(part);
    let start =
        stem.iter().rposition(|byte| matches!(byte, b'-' | b':')).map_or(0, |separator| separator + 1);
    let (runtime, id) = stem.split_at(start);
    // The monitor of a container (conmon) lives on the host.
    let monitor = runtime.ends_with(b"conmon-");
    (is_hex(id, 64) && !monitor).then(|| text(id))
}

/// Runtimes that name their cgroups by the container's name.
fn by_name(before: &[u8], part: &[u8]) -> Option<ContainerId> {
    if matches!(before, b"lxc" | b"lxc.payload") {
        return Some(text(part));
    }
    if let Some(name) = part.strip_prefix(b"lxc.payload.").filter(|name| !name.is_empty()) {
        return Some(text(name));
    }
    let nspawn = part.strip_prefix(b"systemd-nspawn@").and_then(|rest| rest.strip_suffix(b".service"));
    if let Some(name) = nspawn.filter(|name| !name.is_empty()) {
        return Some(text(name));
    }
    // Fargate: `/ecs/TASK/TASK-NUMBER`.
    let dash = part.iter().position(|byte| *byte == b'-')?;
    let (task, number) = (&part[..dash], &part[dash + 1..]);
    let fargate = is_hex(task, 32) && !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    fargate.then(|| text(part))
}

fn is_hex(id: &[u8], length: usize) -> bool {
    id.len() == length && id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn text(name: &[u8]) -> ContainerId {
    ContainerId(printable(&name[..name.len().min(MAX_NAME)]).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OUTER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    fn container(path: &str) -> Option<String> {
        container_of_path(path.as_bytes()).map(|id| id.0)
    }

    #[test]
    fn each_runtime_is_known_by_its_path() {
        let pod = "pod8a1c0ffe-0000-4444-8888-123456789abc";
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/system.slice/docker-{ID}.scope/init.scope"),
            format!("/kubepods/burstable/{pod}/{ID}"),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-{ID}.scope"
            ),
            format!("/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:{ID}"),
            format!("/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"),
            format!("/machine.slice/libpod-{ID}.scope"),
            format!("/default/{ID}"),
            format!("/docker/{OUTER}/docker/{ID}"),
            format!("/../../docker/{ID}"),
        ] {
            assert_eq!(container(&path).as_deref(), Some(ID), "{path}");
        }
        assert_eq!(container("/lxc/web").as_deref(), Some("web"));
        assert_eq!(container("/lxc.payload.web/system.slice/cron.service").as_deref(), Some("web"));
        assert_eq!(container("/machine.slice/systemd-nspawn@deb.service/payload").as_deref(), Some("deb"));
        let task = format!("/ecs/{0}/{0}-1234567890", &ID[..32]);
        assert_eq!(container(&task), Some(format!("{}-1234567890", &ID[..32])));
    }

    #[test]
    fn the_host_and_the_monitors_of_containers_are_no_container() {
        for path in [
            "/",
            "",
            "/system.slice/ssh.service",
            "/user.slice/user-0.slice/session-1.scope",
            "/init.scope",
            "/docker",
            "/lxc",
            "/lxc.monitor.web",
            &format!("/machine.slice/libpod-conmon-{ID}.scope"),
            &format!("/docker/{}", ID.to_uppercase()),
            &format!("/docker/{}", &ID[1..]),
        ] {
            assert_eq!(container(path), None, "{path}");
        }
    }

    #[test]
    fn a_hostile_name_is_escaped_and_cut() {
        assert_eq!(container("/lxc/\x1b[2J").as_deref(), Some("\\x1b[2J"));
        assert_eq!(container(&format!("/lxc/{}", "a".repeat(9000))).unwrap().len(), MAX_NAME);
    }

    proptest! {
        #[test]
        fn no_path_panics(path in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _seen = container_of_path(&path);
        }
    }
}
