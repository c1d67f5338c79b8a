//! The `ringlite` command.

/// The C library's allocator asks the kernel for each page that an arena of a pinned thread grows
/// by, which costs more than the rest of a small commit's memory work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ringlite::cli::main()
}
