//! An alert's process tree, drawn from the eldest ancestor down to the process the rule spoke of.

use maud::{Markup, html};
use watchfire_event::{Process, ProcessNode, Stdio, UnixNanos, printable, printable_argv};

use super::page::{Place, cut, moment, shown};
use super::text::Text;

/// Longest command line drawn; the JSON has all of it.
const COMMAND: usize = 4000;
/// Deepest tree drawn.
const DEPTH: usize = 64;

/// `tree` as an alert has it: the process first, then its parents.
pub(super) fn tree(place: &Place, tree: &[ProcessNode], booted: UnixNanos) -> Markup {
    let mut drawn = html! {};
    // From the process outwards: what is drawn so far becomes the child of the next.
    for (index, node) in tree.iter().take(DEPTH).enumerate() {
        drawn = html! {
            ol.tree { li {
                div.node.culprit[index == 0] { (process(place, &node.process, booted)) }
                (drawn)
            } }
        };
    }
    drawn
}

fn process(place: &Place, process: &Process, booted: UnixNanos) -> Markup {
    let ids = &process.credentials;
    html! {
        div {
            span.exe { (name(process)) } " "
            span.soft.small { "tgid " (process.key.tgid) }
        }
        @if !process.argv.is_empty() {
            code.argv { (cut(&printable_argv(&process.argv), COMMAND)) }
        }
        @if process.argv_truncated() {
            p.small.soft { (place.say(Text::Truncated)) " " (process.argv_len) }
        }
        div.facts {
            span { b { (place.say(Text::User)) } "uid " (ids.uid) @if ids.euid != ids.uid { ", euid " (ids.euid) } }
            @if let Some(login) = process.login_uid { span { b { (place.say(Text::LoginUser)) } (login) } }
            @if !process.cwd.is_empty() { span { b { (place.say(Text::Directory)) } code { (shown(&process.cwd, 300)) } } }
            @if let Some(container) = &process.container {
                span { b { (place.say(Text::Container)) } code { (shown(container.0.as_bytes(), 80)) } }
            }
            @if let Some(tty) = &process.tty { span { b { (place.say(Text::Terminal)) } (shown(&tty.name, 40)) } }
            span { b { (place.say(Text::Started)) } (moment(process.key.started.on_wall(booted))) }
            @if process.stdio.iter().any(|stdio| *stdio != Stdio::Unknown) {
                span { b { (place.say(Text::StdStreams)) } (stdio(process)) }
            }
            @if let Some(marks) = image_marks(place, process) { span { b { (place.say(Text::Image)) } (marks) } }
            span { b { (place.say(Text::Origin)) } (process.origin.as_str()) }
        }
    }
}

/// The path, or what else the process is called.
pub(super) fn name(process: &Process) -> String {
    match (process.exe.is_empty(), process.comm.is_empty()) {
        (false, _) => shown(&process.exe, 300),
        (true, false) => format!("[{}]", printable(&process.comm)),
        (true, true) => "?".to_owned(),
    }
}

fn stdio(process: &Process) -> String {
    let one = |stdio: &Stdio| match stdio.remote() {
        Some(remote) => format!("{} {remote}", stdio.as_str()),
        None => stdio.as_str().to_owned(),
    };
    process.stdio.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn image_marks(place: &Place, process: &Process) -> Option<String> {
    let image = &process.image;
    // An image that was never looked at has no inode, and nothing to say.
    let known = image.inode != 0;
    let marks = [
        (image.memfd, Text::InMemory),
        (known && image.unlinked() && !image.memfd, Text::Unlinked),
        (image.mode & 0o4000 != 0, Text::SetUserId),
    ];
    let words: Vec<&str> = marks.iter().filter(|(set, _)| *set).map(|(_, text)| place.say(*text)).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::text::Lang;
    use std::sync::Arc;

    fn node(exe: &[u8], argv: &[u8]) -> ProcessNode {
        let process = Process { exe: exe.to_vec(), argv: argv.to_vec(), ..Process::default() };
        ProcessNode { process: Arc::new(process) }
    }

    #[test]
    fn parents_stand_around_their_children_and_the_process_is_marked() {
        let place = Place::new(Lang::En, &"/".parse().unwrap());
        let html =
            tree(&place, &[node(b"/bin/sh", b""), node(b"/sbin/init", b"")], UnixNanos(0)).into_string();
        let (init, shell) = (html.find("/sbin/init").unwrap(), html.find("/bin/sh").unwrap());
        assert!(init < shell, "{html}");
        assert_eq!(html.matches("culprit").count(), 1);
        assert!(html.find("culprit").unwrap() > init);
    }

    #[test]
    fn hostile_arguments_are_shown_as_text() {
        let argv = "<script>alert(1)</script>\0\x1b[2J\0\u{202e}cod.exe\0".as_bytes();
        let place = Place::new(Lang::Zh, &"/".parse().unwrap());
        let html = tree(&place, &[node(b"/tmp/<b>\n", argv)], UnixNanos(0)).into_string();
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt; \\x1b[2J \\u{202e}cod.exe"), "{html}");
        assert!(html.contains("/tmp/&lt;b&gt;\\x0a"), "{html}");
        assert!(!html.contains(['\x1b', '\u{202e}']) && !html.contains("<script"));
    }
}
