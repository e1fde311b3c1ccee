//! How often, how fast, and when to stop.
//!
//! `bucket.rs` (how many in a time) · `backoff.rs` (how long to wait after a failure) → `retry.rs` (both, around a
//! fallible operation) · `stagger.rs` (when in a window a host's turn is) · `breaker.rs` (when to leave off altogether)
//! · `random.rs`, `mix.rs` (numbers for all of them) · `stop.rs` (the word to end, and waits that hear it).
//!
//! Time is an [`std::time::Instant`] that is passed in, chance is a seeded [`Random`] that is passed in: the same calls
//! give the same answers. `stop.rs` alone blocks and reads the clock, for that is what it is for.

#![forbid(unsafe_code)]

mod backoff;
mod breaker;
mod bucket;
mod mix;
mod random;
mod retry;
mod stagger;
mod stop;

pub use backoff::{Backoff, BackoffSettings};
pub use breaker::{Breaker, BreakerSettings, Cause, Change, OutOfRange, Reading, State};
pub use bucket::{Rate, TokenBucket};
pub use random::Random;
pub use retry::{GaveUp, RetryBudget, RetryError, RetryPolicy, retry};
pub use stagger::stagger;
pub use stop::{Stop, Waiting};
