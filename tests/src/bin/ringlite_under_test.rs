//! The `ringlite` command as the tests run it: the same code, built with the tests.

fn main() -> std::process::ExitCode {
    ringlite::cli::main()
}
