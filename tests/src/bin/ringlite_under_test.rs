//! The `ringlite` command as the tests run it: the same code and the same allocator, built with
//! the tests.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ringlite::cli::main()
}
