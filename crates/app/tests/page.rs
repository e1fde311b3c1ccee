//! The page that shows how an app is written shows the app that is in the tree.

const PAGE: &str = include_str!("../../../docs/writing-an-app.md");
const EXAMPLE: &str = include_str!("../examples/canary.rs");

#[test]
fn the_page_shows_the_example_as_it_is() {
    let code = PAGE.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let own = |text: &str| text.find("#[derive").map(|at| text[at..].to_owned()).unwrap();
    let (code, example) = (own(code), own(EXAMPLE));
    assert!(example.starts_with(code.trim_end()), "docs/writing-an-app.md and examples/canary.rs differ");
    assert!(code.lines().count() <= 50, "{} lines", code.lines().count());
}
