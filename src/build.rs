//! Links gcc's unwinder statically where gcc is the system's compiler.
//!
//! The shared one, `libgcc_s`, is a third library to load and asks the processor for its features, which traps on a
//! virtual machine: together a tenth of a run of `dbs`, which cron may start every minute on every machine.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let native = variable("HOST") == variable("TARGET");
    if !native || variable("CARGO_CFG_TARGET_OS") != "linux" || variable("CARGO_CFG_TARGET_ENV") != "gnu" {
        return;
    }
    let output = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    let Some(path) = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()) else { return };
    // A compiler that does not have the library repeats its name.
    let path = PathBuf::from(path.trim());
    if let Some(folder) = path.parent().filter(|_| path.is_absolute() && path.exists()) {
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}
