//! What the real-process suites share: clusters of real nodes, an oracle for rows, and the means
//! to treat nodes badly.

pub mod author;
pub mod differential;
pub mod disk;
pub mod generator;
pub mod history;
pub mod lone_node;
pub mod netns;
pub mod nodes;
pub mod oracle;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod recovery;
pub mod reference;
pub mod scene;
pub mod segments;
pub mod shell;
pub mod sim;
pub mod sim_farm;
#[cfg(feature = "mutations")]
pub mod sim_mutations;
pub mod trace;
pub mod victim;
pub mod workload;
