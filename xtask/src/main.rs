//! Repository tasks: `cargo xtask --help`.

mod proto;

fn main() -> anyhow::Result<()> {
    proto::run(std::env::args().any(|arg| arg == "--check"))
}
