//! Lines of the authentication log: `TIME HOST SERVICE[TGID]: MESSAGE`.
//!
//! User names are chosen by whoever tries them, so a message is never searched for its first match: what sshd writes behind a
//! name has a fixed form, and is taken off from the right.

use std::net::{IpAddr, SocketAddr};

use watchfire_event::LoginAttempt;

/// Most attempts taken from one line that stands for several.
const MAX_REPEATS: u32 = 20;

/// What a line tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// The process that wrote the line, by its own account; 0 when it does not say.
    pub(super) tgid: u32,
    pub(super) attempt: LoginAttempt,
    /// How many such attempts the line stands for.
    pub(super) times: u32,
}

/// Reads a line; `None` when it is about something else.
pub(super) fn parse(line: &[u8]) -> Option<Told> {
    let (service, tgid, message) = head(line)?;
    let (message, times) = repeated(message);
    let (attempt, more) = match service {
        b"sshd" | b"sshd-session" | b"sshd-auth" => (sshd(message)?, 1),
        b"su" | b"sudo" | b"login" => by_service(service, message)?,
        _ => return None,
    };
    Some(Told { tgid, attempt, times: times.saturating_mul(more).clamp(1, MAX_REPEATS) })
}

/// Service, tgid and message behind time and host. The time is either one word (RFC 3339) or three (`Nov 21 08:15:30`).
fn head(line: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let mut rest = line;
    let words = if line.first()?.is_ascii_digit() { 2 } else { 4 };
    for _ in 0..words {
        let blank = rest.iter().position(|byte| *byte == b' ')?;
        // A day below 10 is padded by a second blank.
        rest = rest[blank..].trim_ascii_start();
    }
    let colon = find(rest, b": ")?;
    let (tag, message) = (&rest[..colon], &rest[colon + 2..]);
    let open = tag.iter().position(|byte| *byte == b'[').unwrap_or(tag.len());
    let tgid = tag.get(open + 1..).and_then(|tail| number(tail.strip_suffix(b"]")?)).unwrap_or(0);
    Some((&tag[..open], tgid, message.trim_ascii_start()))
}

/// rsyslog's `message repeated 3 times: [ MESSAGE]`.
fn repeated(message: &[u8]) -> (&[u8], u32) {
    let inner = || {
        let rest = message.strip_prefix(b"message repeated ")?;
        let end = find(rest, b" times: [ ")?;
        Some((rest[end + 10..].strip_suffix(b"]")?, number(&rest[..end])?))
    };
    inner().unwrap_or((message, 1))
}

/// `Accepted METHOD for NAME from ADDRESS port PORT ssh2`, `Failed METHOD for [invalid user ]NAME from …`, and for a key
/// `: TYPE FINGERPRINT` behind it.
fn sshd(message: &[u8]) -> Option<LoginAttempt> {
    let (accepted, rest) = match message.strip_prefix(b"Accepted ") {
        Some(rest) => (true, rest),
        None => (false, message.strip_prefix(b"Failed ")?),
    };
    let end = find(rest, b" for ")?;
    let (method, rest) = (&rest[..end], &rest[end + 5..]);
    let rest = rest.strip_prefix(b"invalid user ").filter(|_| !accepted).unwrap_or(rest);
    let (user, remote) = match rest.strip_suffix(b" ssh2") {
        Some(whole) => split_last(whole, b" from ")?,
        // sshd tells of a key only for a user that exists, whose name holds no blank; but the text of a certificate may hold
        // anything. So here the first match is the true one.
        None => {
            let (user, behind) = split_first(rest, b" from ")?;
            (user, split_first(behind, b" ssh2: ")?.0)
        }
    };
    let (address, port) = split_last(remote, b" port ")?;
    let remote = ip(address).zip(number(port).and_then(|port| u16::try_from(port).ok()));
    // `keyboard-interactive/pam`: the part behind the slash is the server's own.
    let method = method.split(|byte| *byte == b'/').next().unwrap_or_default();
    Some(LoginAttempt {
        service: b"sshd".to_vec(),
        user: user.to_vec(),
        remote: remote.map(|(ip, port)| SocketAddr::new(ip, port)),
        method: method.to_vec(),
        accepted,
    })
}

/// su, sudo and login, by what pam_unix writes for them, and sudo by its own refusals.
fn by_service(service: &[u8], message: &[u8]) -> Option<(LoginAttempt, u32)> {
    let attempt = |user: &[u8], remote, method: &[u8], accepted| LoginAttempt {
        service: service.to_vec(),
        user: user.to_vec(),
        remote,
        method: method.to_vec(),
        accepted,
    };
    if let Some((module, text)) =
        message.strip_prefix(b"pam_unix(").and_then(|rest| split_first(rest, b"): "))
    {
        if module.ends_with(b":session") {
            let opened = text.strip_prefix(b"session opened for user ")?;
            let (user, _) = split_first(opened, b" by ").unwrap_or((opened, b""));
            let user = split_first(user, b"(uid=").map_or(user, |(name, _)| name);
            return Some((attempt(user, None, b"", true), 1));
        }
        let times = failures(text).filter(|_| module.ends_with(b":auth"))?;
        // The remote host is `rhost=`, empty for a local try; the name is last, and may hold anything.
        let (_, behind) = split_first(text, b" rhost=")?;
        let (host, user) = split_first(behind, b" user=").unwrap_or((behind, b""));
        let remote = ip(host.trim_ascii()).map(|ip| SocketAddr::new(ip, 0));
        return Some((attempt(user.trim_ascii_end(), remote, b"password", false), times));
    }
    if service == b"sudo" {
        let (user, text) = split_first(message, b" : ")?;
        let refused = [&b"user NOT in sudoers"[..], b"user NOT authorized on host", b"command not allowed"];
        if refused.iter().any(|reason| text.starts_with(reason)) {
            return Some((attempt(user, None, b"", false), 1));
        }
    }
    None
}

/// `authentication failure;` or `2 more authentication failures;`
fn failures(text: &[u8]) -> Option<u32> {
    if text.starts_with(b"authentication failure;") {
        return Some(1);
    }
    let (count, rest) = split_first(text, b" more authentication failure")?;
    (rest.starts_with(b";") || rest.starts_with(b"s;")).then(|| number(count)).flatten()
}

fn ip(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    // A link-local address carries its interface: `fe80::1%eth0`.
    text.split('%').next()?.parse().ok()
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn split_first<'a>(text: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = find(text, at)?;
    Some((&text[..start], &text[start + at.len()..]))
}

fn split_last<'a>(text: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = text.windows(at.len()).rposition(|window| window == at)?;
    Some((&text[..start], &text[start + at.len()..]))
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "Nov  1 08:15:30 web-1 ";
    const NEW: &str = "2026-11-21T08:15:30.250000+00:00 web-1 ";

    fn told(line: &str) -> Option<(String, String, String, String, bool, u32, u32)> {
        let Told { tgid, attempt, times } = parse(line.as_bytes())?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let remote = attempt.remote.map_or(String::new(), |remote| remote.to_string());
        let (service, user, method) = (text(attempt.service), text(attempt.user), text(attempt.method));
        Some((service, user, remote, method, attempt.accepted, tgid, times))
    }

    fn expect(
        service: &str,
        user: &str,
        remote: &str,
        method: &str,
        accepted: bool,
        tgid: u32,
        times: u32,
    ) -> Option<(String, String, String, String, bool, u32, u32)> {
        Some((
            service.to_owned(),
            user.to_owned(),
            remote.to_owned(),
            method.to_owned(),
            accepted,
            tgid,
            times,
        ))
    }

    #[test]
    fn sshd_tells_who_came_from_where_and_how() {
        for time in [OLD, NEW] {
            let line = |text: &str| told(&format!("{time}{text}"));
            assert_eq!(
                line("sshd[71]: Accepted password for root from 10.0.0.9 port 5022 ssh2"),
                expect("sshd", "root", "10.0.0.9:5022", "password", true, 71, 1)
            );
            assert_eq!(
                line(
                    "sshd-session[72]: Accepted publickey for eve from fe80::1%eth0 port 1 ssh2: ED25519 SHA256:abc"
                ),
                expect("sshd", "eve", "[fe80::1]:1", "publickey", true, 72, 1)
            );
            assert_eq!(
                line("sshd[73]: Failed password for invalid user admin from 10.0.0.9 port 5023 ssh2"),
                expect("sshd", "admin", "10.0.0.9:5023", "password", false, 73, 1)
            );
            assert_eq!(
                line("sshd[74]: Failed keyboard-interactive/pam for root from 10.0.0.9 port 5023 ssh2"),
                expect("sshd", "root", "10.0.0.9:5023", "keyboard-interactive", false, 74, 1)
            );
            assert_eq!(
                line(
                    "sshd[75]: message repeated 4 times: [ Failed password for root from 10.0.0.9 port 7 ssh2]"
                ),
                expect("sshd", "root", "10.0.0.9:7", "password", false, 75, 4)
            );
        }
    }

    #[test]
    fn a_name_that_imitates_the_rest_of_the_line_changes_nothing() {
        let name = "root from 1.2.3.4 port 22 ssh2: RSA SHA256:x for y";
        let line = format!("{NEW}sshd[1]: Failed password for invalid user {name} from 6.6.6.6 port 99 ssh2");
        assert_eq!(told(&line), expect("sshd", name, "6.6.6.6:99", "password", false, 1, 1));
        let certificate = "ID x from 1.2.3.4 port 22 ssh2: (serial 0) CA RSA SHA256:y";
        let line = format!(
            "{NEW}sshd[1]: Failed publickey for root from 6.6.6.6 port 99 ssh2: RSA-CERT SHA256:x {certificate}"
        );
        assert_eq!(told(&line), expect("sshd", "root", "6.6.6.6:99", "publickey", false, 1, 1));
        let line = format!("{NEW}sshd[1]: Failed password for invalid user  from 6.6.6.6 port 99 ssh2");
        assert_eq!(told(&line), expect("sshd", "", "6.6.6.6:99", "password", false, 1, 1));
    }

    #[test]
    fn su_sudo_and_login_are_told_by_pam() {
        let line = |text: &str| told(&format!("{OLD}{text}"));
        assert_eq!(
            line(
                "su[5]: pam_unix(su:auth): authentication failure; logname= uid=1000 euid=0 tty=/dev/pts/0 ruser=eve rhost=  user=root"
            ),
            expect("su", "root", "", "password", false, 5, 1)
        );
        assert_eq!(
            line(
                "sudo: pam_unix(sudo:auth): 2 more authentication failures; logname=eve uid=1 euid=0 tty=x ruser=eve rhost=  user=eve user=x"
            ),
            expect("sudo", "eve user=x", "", "password", false, 0, 2)
        );
        assert_eq!(
            line("sudo[9]: pam_unix(sudo:session): session opened for user root(uid=0) by eve(uid=1000)"),
            expect("sudo", "root", "", "", true, 9, 1)
        );
        assert_eq!(
            line("su: pam_unix(su-l:session): session opened for user root by (uid=0)"),
            expect("su", "root", "", "", true, 0, 1)
        );
        assert_eq!(
            line(
                "login[3]: pam_unix(login:auth): authentication failure; logname=LOGIN uid=0 euid=0 tty=/dev/tty1 ruser= rhost=10.1.1.1"
            ),
            expect("login", "", "10.1.1.1:0", "password", false, 3, 1)
        );
        assert_eq!(
            line("sudo:      eve : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh"),
            expect("sudo", "eve", "", "", false, 0, 1)
        );
    }

    #[test]
    fn other_lines_are_passed_over() {
        for text in [
            "sshd[1]: Connection closed by 10.0.0.9 port 1 [preauth]",
            "sshd[1]: pam_unix(sshd:auth): authentication failure; logname= uid=0 rhost=1.1.1.1  user=root",
            "CRON[1]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)",
            "sudo:      eve : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/echo x : user NOT in sudoers",
            "app[1]: sshd[2]: Accepted password for root from 10.0.0.9 port 5022 ssh2",
            "sshd[1]: Accepted password for root",
            "",
        ] {
            assert_eq!(told(&format!("{NEW}{text}")), None, "{text}");
        }
    }

    #[test]
    fn a_line_cannot_stand_for_more_than_a_few() {
        let line = format!(
            "{NEW}sshd[1]: message repeated 4000000000 times: [ Failed password for a from 1.1.1.1 port 1 ssh2]"
        );
        assert_eq!(parse(line.as_bytes()).unwrap().times, MAX_REPEATS);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _seen = parse(&bytes);
        }

        #[test]
        fn any_user_name_is_read_back(name in "[^\\x00-\\x1f]{0,40}", valid in any::<bool>()) {
            let invalid = if valid && !name.contains("invalid user ") { "" } else { "invalid user " };
            let line = format!("{NEW}sshd[1]: Failed password for {invalid}{name} from 6.6.6.6 port 99 ssh2");
            let told = parse(line.as_bytes()).unwrap();
            prop_assert_eq!(told.attempt.user, name.as_bytes());
            prop_assert_eq!(told.attempt.remote, "6.6.6.6:99".parse().ok());
        }

        #[test]
        fn no_mutation_of_a_real_line_panics(at in 0usize..120, byte in any::<u8>(), cut in 0usize..140) {
            let mut line = format!("{OLD}sshd[71]: Failed password for invalid user x from 10.0.0.9 port 5022 ssh2").into_bytes();
            let length = line.len();
            line[at % length] = byte;
            line.truncate(cut);
            let _seen = parse(&line);
        }
    }
}
