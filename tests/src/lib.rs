//! What the real-process suites share: clusters of real nodes, and an oracle for rows.

pub mod oracle;
pub mod scene;
