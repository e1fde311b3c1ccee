//! Who may ask: the admin token, or a session that began with a one-time link. Everything is bounded, and only
//! digests are kept.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::secret::{Secret, random_hex};

/// How long a session lasts.
pub(crate) const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// How long a login link works, if it is not used before.
pub(crate) const LINK_LIFE: Duration = Duration::from_secs(600);
/// People at one console; the session nearest its end makes room for one more.
const MAX_SESSIONS: usize = 256;
/// Links asked for and not used.
const MAX_LINKS: usize = 64;
/// Wrong credentials a peer may present at once, and how long until it may present one more.
const MISTAKES: u32 = 20;
const FORGIVEN_AFTER: Duration = Duration::from_secs(2);
/// Peers whose mistakes are remembered.
const MAX_PEERS: usize = 1024;

/// The credentials of one server.
#[derive(Debug)]
pub(crate) struct Auth {
    admin: Secret,
    sessions: Mutex<Expiring>,
    links: Mutex<Expiring>,
    mistakes: Mutex<HashMap<IpAddr, Mistakes>>,
}

/// Why a peer was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing was presented.
    Missing,
    /// What was presented is wrong, or no longer valid.
    Wrong,
    /// Too many wrong ones from this peer.
    TooMany,
}

impl Auth {
    pub(crate) fn new(admin: Secret) -> Self {
        Auth {
            admin,
            sessions: Mutex::new(Expiring::new(MAX_SESSIONS)),
            links: Mutex::new(Expiring::new(MAX_LINKS)),
            mistakes: Mutex::default(),
        }
    }

    /// Whether `token` is the admin token. A right one is let in whatever mistakes its peer made before.
    pub(crate) fn check_admin(&self, token: &str, peer: IpAddr, now: Instant) -> Result<(), Refusal> {
        if self.admin.matches(token) { Ok(()) } else { Err(self.mistake(peer, now)) }
    }

    /// Whether `cookie` is a session.
    pub(crate) fn check_session(&self, cookie: &str, peer: IpAddr, now: Instant) -> Result<(), Refusal> {
        if locked(&self.sessions).holds(Secret::of(cookie), now) {
            Ok(())
        } else {
            Err(self.mistake(peer, now))
        }
    }

    /// A code for one login.
    pub(crate) fn new_link(&self, now: Instant) -> Result<String, getrandom::Error> {
        let code = random_hex()?;
        locked(&self.links).insert(Secret::of(&code), now, LINK_LIFE);
        Ok(code)
    }

    /// Trades a link's code for a new session's cookie; the code is gone with it.
    pub(crate) fn redeem(&self, code: &str, peer: IpAddr, now: Instant) -> Result<String, Refusal> {
        if !locked(&self.links).take(Secret::of(code), now) {
            return Err(self.mistake(peer, now));
        }
        let cookie = random_hex().map_err(|error| {
            tracing::error!(%error, "no random bytes for a session");
            Refusal::Wrong
        })?;
        locked(&self.sessions).insert(Secret::of(&cookie), now, SESSION_LIFE);
        Ok(cookie)
    }

    /// Ends a session.
    pub(crate) fn end_session(&self, cookie: &str, now: Instant) {
        locked(&self.sessions).take(Secret::of(cookie), now);
    }

    fn mistake(&self, peer: IpAddr, now: Instant) -> Refusal {
        let mut mistakes = locked(&self.mistakes);
        if mistakes.len() >= MAX_PEERS && !mistakes.contains_key(&peer) {
            mistakes.retain(|_, made| made.left_at(now) > 0);
            if mistakes.len() >= MAX_PEERS {
                return Refusal::TooMany;
            }
        }
        let made = mistakes.entry(peer).or_insert(Mistakes { count: 0, at: now });
        made.count = made.left_at(now) + 1;
        made.at = now;
        if made.count > MISTAKES {
            made.count = MISTAKES;
            return Refusal::TooMany;
        }
        Refusal::Wrong
    }
}

/// A leaky bucket.
#[derive(Debug)]
struct Mistakes {
    count: u32,
    at: Instant,
}

impl Mistakes {
    fn left_at(&self, now: Instant) -> u32 {
        let forgiven = now.saturating_duration_since(self.at).as_secs() / FORGIVEN_AFTER.as_secs();
        self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

/// Secrets, each with its end.
#[derive(Debug)]
struct Expiring {
    limit: usize,
    ends: HashMap<Secret, Instant>,
}

impl Expiring {
    fn new(limit: usize) -> Self {
        Expiring { limit, ends: HashMap::new() }
    }

    fn insert(&mut self, secret: Secret, now: Instant, life: Duration) {
        self.ends.retain(|_, end| *end > now);
        if self.ends.len() >= self.limit
            && let Some(first) = self.ends.iter().min_by_key(|(_, end)| **end).map(|(secret, _)| *secret)
        {
            self.ends.remove(&first);
        }
        self.ends.insert(secret, now + life);
    }

    fn holds(&self, secret: Secret, now: Instant) -> bool {
        self.ends.get(&secret).is_some_and(|end| *end > now)
    }

    fn take(&mut self, secret: Secret, now: Instant) -> bool {
        self.ends.remove(&secret).is_some_and(|end| end > now)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn auth() -> (Auth, String) {
        let token = random_hex().unwrap();
        (Auth::new(Secret::from_hex(&token).unwrap()), token)
    }

    #[test]
    fn a_link_works_once_and_makes_a_session_that_ends() {
        let (auth, _) = auth();
        let now = Instant::now();
        let code = auth.new_link(now).unwrap();
        let cookie = auth.redeem(&code, PEER, now).unwrap();
        assert_eq!(auth.redeem(&code, PEER, now), Err(Refusal::Wrong));
        assert_eq!(auth.check_session(&cookie, PEER, now), Ok(()));
        assert_eq!(auth.check_session(&cookie, PEER, now + SESSION_LIFE), Err(Refusal::Wrong));
        auth.end_session(&cookie, now);
        assert_eq!(auth.check_session(&cookie, PEER, now), Err(Refusal::Wrong));
    }

    #[test]
    fn a_link_that_was_not_used_in_time_is_dead() {
        let (auth, _) = auth();
        let now = Instant::now();
        let code = auth.new_link(now).unwrap();
        assert_eq!(auth.redeem(&code, PEER, now + LINK_LIFE), Err(Refusal::Wrong));
    }

    #[test]
    fn many_mistakes_are_slowed_down_and_forgiven_and_never_lock_the_admin_out() {
        let (auth, token) = auth();
        let now = Instant::now();
        for _ in 0..MISTAKES {
            assert_eq!(auth.check_admin("wrong", PEER, now), Err(Refusal::Wrong));
        }
        assert_eq!(auth.check_admin("wrong", PEER, now), Err(Refusal::TooMany));
        assert_eq!(auth.check_admin(&token, PEER, now), Ok(()));
        assert_eq!(auth.check_admin("wrong", PEER, now + FORGIVEN_AFTER), Err(Refusal::Wrong));
        let other = "192.0.2.1".parse().unwrap();
        assert_eq!(auth.check_admin("wrong", other, now), Err(Refusal::Wrong));
    }

    #[test]
    fn sessions_and_links_are_bounded() {
        let (auth, _) = auth();
        let now = Instant::now();
        let codes: Vec<String> = (0..200).map(|_| auth.new_link(now).unwrap()).collect();
        let alive = codes.iter().filter(|code| locked(&auth.links).holds(Secret::of(code), now)).count();
        assert_eq!(alive, MAX_LINKS);
    }
}
