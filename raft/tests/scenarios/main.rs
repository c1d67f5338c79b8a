//! The protocol's known traps, each as a short script against replicas without any disk or network.
//!
//! Messages are handed over by hand, so that each test says exactly what arrives when. `RINGLITE_MUTATION`
//! switches a known bug on, in a build with the feature `mutations`: then a test must fail.

mod cutting;
mod damage;
mod elections;
mod membership;
mod reads;
mod replication;
mod script;
mod trust;
