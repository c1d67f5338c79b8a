//! A request to the kernel that no core of the machine sleeps while a node has work.
//!
//! A commit is a chain of short steps with waits between them, and each wait on an idle core ends with
//! waking it, which takes longer than the steps in a virtual machine: there an idle core is given back
//! to the host. The kernel's quality of service for the latency of cores
//! (`Documentation/power/pm_qos_interface.rst`) keeps idle cores polling instead, in the kernel, where
//! every thread and every interrupt comes before that.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::Write;

const DEVICE: &str = "/dev/cpu_dma_latency";
/// The longest time in us that waking a core may take.
const LATENCY_MAX: i32 = 0;
/// No wish (`PM_QOS_DEFAULT_VALUE`).
const NO_REQUEST: i32 = -1;

/// What takes such requests, one of each time that it is opened. `None` if this process may not make
/// any, which is said in the log.
pub(crate) fn device() -> Option<File> {
    let device = OpenOptions::new().write(true).open(DEVICE);
    if let Err(error) = &device {
        tracing::info!(
            "cores sleep between the steps of a commit, which makes it slower: {DEVICE} cannot be \
             opened for writing: {error}"
        );
    }
    device.ok()
}

/// A request that is made while there is work.
#[derive(Debug)]
pub(crate) struct Awake {
    device: RefCell<Option<File>>,
    is_held: Cell<bool>,
}

impl Awake {
    /// With `device`, which [`device`] has opened; without one it asks for nothing.
    pub(crate) fn new(device: Option<File>) -> Self {
        Self {
            device: RefCell::new(device),
            is_held: Cell::new(false),
        }
    }

    /// There is work. Costs a system call if there was none before, which wakes the other cores.
    pub(crate) fn hold(&self) {
        if !self.is_held.replace(true) {
            self.ask(LATENCY_MAX);
        }
    }

    /// There is none any more.
    pub(crate) fn release(&self) {
        if self.is_held.replace(false) {
            self.ask(NO_REQUEST);
        }
    }

    /// Nothing is asked for any more.
    pub(crate) fn end(&self) {
        drop(self.device.take());
    }

    #[expect(
        clippy::host_endian_bytes,
        reason = "the kernel takes an int as this machine has it"
    )]
    fn ask(&self, latency: i32) {
        if let Some(device) = &mut *self.device.borrow_mut()
            && let Err(error) = device.write_all(&latency.to_ne_bytes())
        {
            tracing::warn!("{DEVICE} does not take what the node asks for: {error}");
        }
    }
}
