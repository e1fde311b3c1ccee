//! Attack-like behaviours and their benign twins, performed for real and harmlessly.
//!
//! `behaviour → stage (a folder, a mark, children with a deadline) → the real system calls → nothing left behind`
//!
//! A [`Behavior`] does on this host what an intruder would do, and its benign twin the closest legitimate thing. Both
//! run on a [`Stage`]: a folder of their own whose name carries a mark. Every child works in that folder, so that the mark
//! shows in each alert the behaviour causes, and everything it started or wrote is gone when the stage is dropped.
//!
//! Nothing here leaves the host or changes it: sockets are on loopback, files are the stage's own, the module image is
//! garbage, mounts are made in namespaces that end with their process.
//!
//! Some behaviours need a process that makes one odd system call. It is a copy of the running program, started with a hidden
//! variable in its environment: a program that performs behaviours must call [`child_main_if_asked`] before anything else.

mod catalog;
mod child;
mod container;
mod credential;
mod discovery;
mod error;
mod escape;
mod evasion;
mod execution;
mod exfiltration;
mod interrupt;
mod operator;
mod persistence;
mod privilege;
mod reverse_shell;
mod sshd;
mod stage;
mod started;
mod sys;
mod tools;
mod web;

pub use catalog::{BEHAVIORS, Behavior, Title};
pub use child::child_main_if_asked;
pub use error::BehaviorError;
pub use interrupt::{clean_up_all, clean_up_when_interrupted};
pub use stage::{Performed, Stage, mentions};
pub use tools::{Need, missing};
