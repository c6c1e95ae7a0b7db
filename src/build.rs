//! Links gcc's unwinder statically where the C library is glibc: a run of `dbs` takes 1.62 ms so and 1.82 ms otherwise.
//!
//! The shared one, `libgcc_s`, is a third library to load and asks the processor for its features, which traps on a
//! virtual machine. gcc and clang know the folder of the static one. It comes before the standard library, which names
//! the shared one, and whatever is linked with `--as-needed`, as rustc has it, is left out when nothing asks for it.

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}
