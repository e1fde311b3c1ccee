//! The frame around every page, and small pieces that several pages use.

use axum::http::Uri;
use maud::{DOCTYPE, Markup, html};
use watchfire_event::{Level, UnixNanos, printable};

use super::text::{Lang, Text, level_text};

/// Where a person is, and in which language.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) lang: Lang,
    path: String,
    query: String,
}

impl Place {
    pub(super) fn new(lang: Lang, uri: &Uri) -> Self {
        Place { lang, path: uri.path().to_owned(), query: uri.query().unwrap_or_default().to_owned() }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// A text in this place's language.
    pub(super) fn say(&self, text: Text) -> &'static str {
        text.to(self.lang)
    }

    /// This very page in the other language.
    fn in_other_language(&self) -> String {
        let kept: Vec<&str> =
            self.query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("lang=")).collect();
        let separator = if kept.is_empty() { "" } else { "&" };
        format!("?{}{separator}lang={}", kept.join("&"), self.lang.other().tag())
    }
}

/// A page with the navigation on top.
pub(super) fn page(place: &Place, title: &str, body: &Markup) -> Markup {
    let links = [
        ("/", Text::Overview),
        ("/alerts", Text::Alerts),
        ("/events", Text::Events),
        ("/hosts", Text::Hosts),
        ("/ledger", Text::Ledger),
    ];
    let here =
        |link: &str| place.path == link || (link != "/" && place.path.starts_with(&format!("{link}/")));
    let inner = html! {
        header.top {
            a.brand href="/" { img src="/assets/icon.svg" alt="" width="22" height="22"; "Watchfire" }
            nav {
                @for (link, text) in links {
                    a href=(link) aria-current=[here(link).then_some("page")] { (place.say(text)) }
                }
            }
            div.tools {
                a href=(place.in_other_language()) lang=(place.lang.other().tag()) { (place.lang.other().own_name()) }
                form method="post" action="/logout" { button.plain type="submit" { (place.say(Text::LogOut)) } }
            }
        }
        main { (body) }
    };
    document(place.lang, title, &inner, true)
}

/// A page that says one thing.
pub(super) fn message(place: &Place, text: Text) -> Markup {
    page(place, place.say(text), &html! { section { p { (place.say(text)) } } })
}

/// For those who are not logged in; `dead` when they came with a link that is used up.
pub(crate) fn login_page(lang: Lang, dead: bool) -> Markup {
    let body = html! {
        main { section.door {
            h1 { (Text::LoginTitle.to(lang)) }
            @if dead { p.verdict.bad { (Text::LinkDead.to(lang)) } }
            p { (Text::LoginHow.to(lang)) }
            pre { "watchfire login" }
        } }
    };
    document(lang, Text::LoginTitle.to(lang), &body, false)
}

/// After a login: leads on by itself.
pub(crate) fn welcome_page(lang: Lang) -> Markup {
    let text = Text::Welcome.to(lang);
    html! {
        (DOCTYPE)
        html lang=(lang.tag()) {
            head { (head(text, false)) meta http-equiv="refresh" content="0; url=/"; }
            body { main { section.door { h1 { (text) } p { a href="/" { (Text::GoOn.to(lang)) } } } } }
        }
    }
}

fn document(lang: Lang, title: &str, body: &Markup, script: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(lang.tag()) { head { (head(title, script)) } body { (body) } }
    }
}

fn head(title: &str, script: bool) -> Markup {
    html! {
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        title { (title) " · Watchfire" }
        link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
        link rel="stylesheet" href="/assets/style.css";
        @if script { script src="/assets/live.js" defer {} }
    }
}

/// A coloured word for a level.
pub(super) fn level_badge(lang: Lang, level: Level) -> Markup {
    html! { span class={ "level " (level.as_str()) } { (level_text(level).to(lang)) } }
}

/// A moment in UTC, down to the second; all of it on hovering.
pub(super) fn moment(at: UnixNanos) -> Markup {
    let full = at.to_string();
    let short = full.get(..19).unwrap_or(&full).replace('T', " ");
    html! { time datetime=(full) title=(full) { (short) } }
}

/// Text a host sent, on one line, cut after `most` characters.
pub(super) fn shown(bytes: &[u8], most: usize) -> String {
    cut(&printable(bytes), most)
}

/// `text`, cut after `most` characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A number with thin spaces between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 * 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_link_keeps_the_rest_of_the_query() {
        let at = |uri: &str| Place::new(Lang::En, &uri.parse().unwrap()).in_other_language();
        assert_eq!(at("/events"), "?lang=zh");
        assert_eq!(at("/events?kind=exec&lang=en&limit=5"), "?kind=exec&limit=5&lang=zh");
    }

    #[test]
    fn numbers_are_grouped_and_texts_cut_at_characters() {
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(grouped(999), "999");
        assert_eq!(cut("烽火台", 2), "烽火…");
        assert_eq!(cut("烽火", 2), "烽火");
    }
}
