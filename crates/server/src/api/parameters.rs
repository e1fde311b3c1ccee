//! Query parameters: read with their ranges, refused by name.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::Query;
use axum::http::Uri;
use serde::Deserialize;
use watchfire_event::{Kind, Level, UnixNanos};

use super::error::ApiError;

/// Rows when no limit is given, and the most that can be asked for.
pub(crate) const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 1_000_000;
/// The longest stretch back in time.
const MAX_SINCE: Duration = Duration::from_secs(3660 * 24 * 3600);

/// Parameters of the lists, as they come.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawList {
    since: Option<String>,
    limit: Option<String>,
    level: Option<String>,
    rule: Option<String>,
    kind: Option<String>,
    /// Language of the console; of no meaning to the API.
    lang: Option<String>,
}

/// Parameters of the lists, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) since: Option<UnixNanos>,
    pub(crate) limit: usize,
    /// This level and those above it.
    pub(crate) level: Option<Level>,
    pub(crate) rule: Option<String>,
    /// Empty means all.
    pub(crate) kinds: Vec<Kind>,
}

/// Reads a query string; `default_limit` holds when it names none.
pub(crate) fn list_of(query: Option<&str>, now: UnixNanos, default_limit: usize) -> Result<List, ApiError> {
    let uri = format!("/?{}", query.unwrap_or_default());
    let uri: Uri = uri.parse().map_err(|_| refuse("query", "not the query of a URL"))?;
    let Query(raw) =
        Query::<RawList>::try_from_uri(&uri).map_err(|error| refuse("query", error.body_text()))?;
    raw.check(now, default_limit)
}

/// Parameters of the ledger.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLedger {
    earlier: Option<String>,
}

/// Whether the books of earlier lives are asked for.
pub(super) fn earlier_of(uri: &Uri) -> Result<bool, ApiError> {
    let Query(raw) =
        Query::<RawLedger>::try_from_uri(uri).map_err(|error| refuse("query", error.body_text()))?;
    match raw.earlier.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(refuse("earlier", "true or false")),
    }
}

impl RawList {
    fn check(&self, now: UnixNanos, default_limit: usize) -> Result<List, ApiError> {
        let since = self.given(&self.since).map(|text| since(text, now)).transpose()?;
        let limit = self.given(&self.limit).map(limit).transpose()?.unwrap_or(default_limit);
        let level = self.given(&self.level).map(level).transpose()?;
        let kinds = self.given(&self.kind).map(kinds).transpose()?.unwrap_or_default();
        Ok(List { since, limit, level, rule: self.given(&self.rule).map(str::to_owned), kinds })
    }

    /// An empty value is what an HTML form sends for a field left alone.
    fn given<'a>(&self, value: &'a Option<String>) -> Option<&'a str> {
        value.as_deref().filter(|text| !text.is_empty())
    }
}

fn refuse(name: &'static str, problem: impl Into<String>) -> ApiError {
    ApiError::Parameter { name, problem: problem.into() }
}

fn since(text: &str, now: UnixNanos) -> Result<UnixNanos, ApiError> {
    let back = parse_back(text).ok_or_else(|| {
        refuse("since", format!("{text:?} is no time span; write a number and s, m, h or d, such as 10m"))
    })?;
    if back > MAX_SINCE {
        return Err(refuse("since", "at most 3660d"));
    }
    let nanos = i64::try_from(back.as_nanos()).unwrap_or(i64::MAX);
    Ok(UnixNanos(now.0.saturating_sub(nanos)))
}

/// `90s`, `10m`, `2h`, `1d`.
fn parse_back(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| number.parse::<u64>().ok()).flatten()?;
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

fn limit(text: &str) -> Result<usize, ApiError> {
    let in_range = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    in_range.ok_or_else(|| refuse("limit", format!("{text:?} is no number from 1 to {MAX_LIMIT}")))
}

fn level(text: &str) -> Result<Level, ApiError> {
    let words: Vec<&str> = Level::ALL.iter().map(|level| level.as_str()).collect();
    Level::from_str(text).map_err(|_| refuse("level", format!("{text:?} is none of {}", words.join(", "))))
}

/// A comma-separated list of kinds.
fn kinds(text: &str) -> Result<Vec<Kind>, ApiError> {
    let mut kinds = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let kind: Kind = word.parse().map_err(|_| {
            let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            refuse("kind", format!("{word:?} is none of {}", all.join(", ")))
        })?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(name: &str, value: &str) -> RawList {
        let mut raw = RawList::default();
        let value = Some(value.to_owned());
        match name {
            "since" => raw.since = value,
            "limit" => raw.limit = value,
            "level" => raw.level = value,
            "kind" => raw.kind = value,
            _ => raw.rule = value,
        }
        raw
    }

    fn check(name: &str, value: &str) -> Result<List, ApiError> {
        raw(name, value).check(UnixNanos(10_000_000_000_000), DEFAULT_LIMIT)
    }

    #[test]
    fn earlier_is_true_or_false() {
        let of = |uri: &str| earlier_of(&uri.parse().unwrap()).map_err(|error| error.to_string());
        assert_eq!((of("/"), of("/?earlier=true"), of("/?earlier=false")), (Ok(false), Ok(true), Ok(false)));
        assert!(of("/?earlier=1").is_err() && of("/?earleir=true").is_err());
    }

    #[test]
    fn spans_kinds_and_levels_are_read() {
        assert_eq!(check("since", "10m").unwrap().since, Some(UnixNanos(9_400_000_000_000)));
        assert_eq!(check("kind", "exec,connect,exec").unwrap().kinds, [Kind::Exec, Kind::Connect]);
        assert_eq!(check("level", "high").unwrap().level, Some(Level::High));
        assert_eq!(check("limit", "").unwrap().limit, DEFAULT_LIMIT);
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let wrong = [
            ("since", "10"),
            ("since", "m"),
            ("since", "-1m"),
            ("since", "9999999d"),
            ("since", "99999999999999999999d"),
            ("limit", "0"),
            ("limit", "1000001"),
            ("limit", "x"),
            ("level", "HIGH"),
            ("kind", "exec,nothing"),
        ];
        for (name, value) in wrong {
            let error = check(name, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("parameter {name}: ")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            for name in ["since", "limit", "level", "kind", "rule"] {
                drop(check(name, &text));
            }
        }
    }
}
