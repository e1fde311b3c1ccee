//! Waiting for something to become true, never longer than allowed.

use std::time::{Duration, Instant};

use anyhow::Result;

const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Looks until `look` finds something, or `allowed` is over: then `None`.
///
/// # Errors
/// The first error of `look` ends the waiting.
pub fn eventually<T>(allowed: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let deadline = Instant::now() + allowed;
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_found_and_what_does_not_is_given_up() {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), Some(3));
        assert_eq!(eventually(Duration::ZERO, || Ok(None::<u8>)).unwrap(), None);
    }
}
