//! Errors in words.

use std::error::Error;

/// A longer chain of causes is a loop.
const CAUSES_MAX: usize = 32;

/// An error and its causes in one line: `attach: load: permission denied`. A cause that the text before it tells
/// already is not told again.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |cause| (**cause).source());
    for cause in causes.take(CAUSES_MAX) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: Option<Box<Told>>,
    }

    fn told(texts: &[&'static str]) -> Told {
        let (text, rest) = texts.split_first().unwrap();
        Told { text, source: (!rest.is_empty()).then(|| Box::new(told(rest))) }
    }

    #[test]
    fn causes_follow_in_order_and_none_is_told_twice() {
        assert_eq!(with_causes(&told(&["attach", "load", "denied"])), "attach: load: denied");
        assert_eq!(with_causes(&told(&["attach: load", "load", "denied"])), "attach: load: denied");
        assert_eq!(with_causes(&told(&["alone"])), "alone");
    }

    #[test]
    fn a_chain_without_end_ends() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Endless(u32, #[source] std::sync::Arc<dyn Error + Send + Sync>);
        let mut error = Endless(0, std::sync::Arc::new(told(&["root"])));
        for number in 1..100 {
            error = Endless(number, std::sync::Arc::new(error));
        }
        assert_eq!(with_causes(&error).split(": ").count(), CAUSES_MAX + 1);
    }
}
