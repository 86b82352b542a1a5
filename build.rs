//! Says two things to the crate that its source cannot know by itself:
//!
//! * `cfg(xent_runtime_dispatch)`: whether instruction sets are chosen at run time. They are on x86-64, where most
//!   programs are built for its oldest members; elsewhere the target's own vectors, by way of `wide`, are all there is.
//! * the facts of the build that benchmark reports print: the target features compiled in, and the compiler.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");

    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        println!("cargo::rustc-cfg=xent_runtime_dispatch");
    }

    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    println!("cargo::rustc-env=XENT_TARGET_FEATURES={features}");
    println!("cargo::rustc-env=XENT_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo::rustc-env=XENT_RUSTC={}", compiler_version());
}

fn compiler_version() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown rustc".to_owned(), |version| version.trim().to_owned())
}
