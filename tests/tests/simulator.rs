//! The simulator at a small size. `SIM_SEEDS=200..2000 cargo test -p ringlite-tests --test simulator`
//! runs other seeds; the binary `sim` is faster in release mode, and says more.

use std::process::Command;

fn sim(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments)
        .output()
        .expect("the simulator runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "sim {arguments:?} fails");
}

#[test]
fn no_promise_is_broken_under_faults_and_the_cluster_heals() {
    let seeds = std::env::var("SIM_SEEDS").unwrap_or_else(|_| "0..200".to_owned());
    sim(&["--seeds", &seeds]);
}

#[test]
fn equal_seeds_give_equal_runs() {
    sim(&["--seeds", "0..8", "--twice"]);
}
