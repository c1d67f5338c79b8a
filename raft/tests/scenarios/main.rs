//! The protocol's known traps, each as a short script against replicas without any disk or network.
//!
//! Messages are handed over by hand, so that each test says exactly what arrives when.

mod cutting;
mod damage;
mod elections;
mod membership;
mod reads;
mod replication;
mod script;
mod trust;
