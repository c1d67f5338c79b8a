//! The `ringlite` command.

fn main() -> std::process::ExitCode {
    ringlite::cli::main()
}
