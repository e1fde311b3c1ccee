//! Performs one behaviour, or its benign twin: for those who write rules.
//!
//! `cargo run -p watchfire-behavior --example perform -- reverse_shell_socket/bash [benign]`; without a name, lists them.

use std::error::Error;

use watchfire_behavior::{BEHAVIORS, Stage, child_main_if_asked, clean_up_when_interrupted, missing};

fn main() -> Result<(), Box<dyn Error>> {
    child_main_if_asked();
    clean_up_when_interrupted()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(name) = arguments.first() else {
        BEHAVIORS.iter().for_each(|behavior| println!("{:36} {}", behavior.name, behavior.title.en));
        return Ok(());
    };
    let found = BEHAVIORS.iter().find(|behavior| behavior.name == name);
    let behavior = found.ok_or_else(|| format!("no behaviour is called {name}"))?;
    if let Some(reason) = missing(behavior.needs) {
        return Err(reason.into());
    }
    let stage = Stage::new()?;
    println!("mark {}", stage.mark());
    if arguments.get(1).is_some_and(|word| word == "benign") {
        (behavior.benign)(&stage)?;
    } else {
        println!("marks {}", (behavior.attack)(&stage)?.marks.join(" "));
    }
    Ok(stage.close()?)
}
