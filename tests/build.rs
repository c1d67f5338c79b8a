//! Tells a test where the header for extensions of SQLite is.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The build of SQLite tells it to those who depend on it.
    let include = std::env::var("DEP_SQLITE3_INCLUDE").unwrap_or_default();
    println!("cargo:rustc-env=SQLITE_INCLUDE={include}");
}
