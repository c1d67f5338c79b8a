//! What the real-process suites share: clusters of real nodes, an oracle for rows, and the means
//! to treat nodes badly.

pub mod differential;
pub mod generator;
pub mod netns;
pub mod oracle;
pub mod process;
pub mod raw;
pub mod reference;
pub mod scene;
pub mod segments;
pub mod shell;
pub mod trace;
pub mod victim;
