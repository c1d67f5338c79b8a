//! What stands between a node and those that call it, and changes one bit of a snapshot on its way.
//!
//! Everything passes through unchanged but for the connections on which a snapshot arrives. Their
//! frames are those of `docs/FORMAT.md`, written down once more on purpose.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

const HELLO_BYTES: usize = 352;
const MAGIC: &[u8] = b"RNGLPEER";
const PURPOSE_AT: usize = 12;
const SNAPSHOT: u8 = 3;
const HEADER_BYTES: usize = 16;
const TYPE_AT: usize = 10;

/// The hello of a connection, in place of a type of frame.
pub const HELLO: u8 = 0;

/// Which bit of a snapshot's connection changes: in the first piece of its kind that passes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Whether in what the member says, and not the leader.
    pub by_member: bool,
    /// The type of the frame, or [`HELLO`].
    pub frame: u8,
    /// Which byte of it; from its end if it is negative.
    pub byte: isize,
}

#[derive(Default)]
struct State {
    flip: Option<Flip>,
    flipped: usize,
    connections: usize,
}

/// Listens in the place of a node. It lives as long as the process.
#[derive(Clone)]
pub struct Proxy {
    /// Where.
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Passes on what comes to a new address to the one that is given.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn before(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
        let own = listener.local_addr().expect("a listener has an address");
        let proxy = Self {
            address: own.to_string(),
            state: Arc::default(),
        };
        let (to, state) = (address.to_owned(), Arc::clone(&proxy.state));
        thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let (to, state) = (to.clone(), Arc::clone(&state));
                // How a connection ends is for those at its ends to judge.
                thread::spawn(move || drop(pass_on(caller, &to, &state)));
            }
        });
        proxy
    }

    /// Changes a bit once, from now on.
    pub fn flip(&self, flip: Flip) {
        *lock(&self.state) = State {
            flip: Some(flip),
            ..State::default()
        };
    }

    /// How many bits were changed, and how many connections there were for snapshots, since then.
    pub fn done(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.flipped, state.connections)
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes what passes by, if it is what is to be changed.
fn tamper(state: &Mutex<State>, by_member: bool, frame: u8, bytes: &mut [u8]) {
    let mut state = lock(state);
    let is_meant = |flip: &Flip| (flip.by_member, flip.frame) == (by_member, frame);
    let Some(flip) = state.flip.take_if(|flip| is_meant(flip)) else {
        return;
    };
    let at = match usize::try_from(flip.byte) {
        Ok(at) => at.min(bytes.len() - 1),
        Err(_) => bytes.len() - flip.byte.unsigned_abs(),
    };
    bytes[at] ^= 0x10;
    state.flipped += 1;
}

fn pass_on(mut caller: TcpStream, to: &str, state: &Arc<Mutex<State>>) -> io::Result<()> {
    let mut node = TcpStream::connect(to)?;
    caller.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let mut first = [0; MAGIC.len()];
    caller.read_exact(&mut first)?;
    if first != MAGIC {
        node.write_all(&first)?;
        return both_ways(caller, node, |from, to| io::copy(from, to).map(drop));
    }
    let mut hello = [0; HELLO_BYTES];
    hello[..first.len()].copy_from_slice(&first);
    caller.read_exact(&mut hello[first.len()..])?;
    if hello[PURPOSE_AT] != SNAPSHOT {
        node.write_all(&hello)?;
        return both_ways(caller, node, |from, to| io::copy(from, to).map(drop));
    }
    lock(state).connections += 1;
    tamper(state, false, HELLO, &mut hello);
    node.write_all(&hello)?;
    let back = (node.try_clone()?, caller.try_clone()?);
    let answers = {
        let state = Arc::clone(state);
        thread::spawn(move || {
            let (mut node, mut caller) = back;
            let mut hello = [0; HELLO_BYTES];
            let passed = node.read_exact(&mut hello).and_then(|()| {
                tamper(&state, true, HELLO, &mut hello);
                caller.write_all(&hello)?;
                pass_frames(&mut node, &mut caller, |frame, bytes| {
                    tamper(&state, true, frame, bytes);
                })
            });
            hang_up(&node, &caller);
            passed
        })
    };
    let passed = pass_frames(&mut caller, &mut node, |frame, bytes| {
        tamper(state, false, frame, bytes);
    });
    hang_up(&caller, &node);
    let _ = answers.join();
    passed
}

/// Passes frames on until one side hangs up.
fn pass_frames(
    from: &mut TcpStream,
    to: &mut TcpStream,
    mut look_at: impl FnMut(u8, &mut [u8]),
) -> io::Result<()> {
    loop {
        let mut frame = vec![0; HEADER_BYTES];
        from.read_exact(&mut frame)?;
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]);
        frame.resize(HEADER_BYTES + length as usize, 0);
        from.read_exact(&mut frame[HEADER_BYTES..])?;
        look_at(frame[TYPE_AT], &mut frame);
        to.write_all(&frame)?;
    }
}

fn both_ways(
    mut caller: TcpStream,
    mut node: TcpStream,
    pass: fn(&mut TcpStream, &mut TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    let (mut from, mut back) = (node.try_clone()?, caller.try_clone()?);
    let answers = thread::spawn(move || {
        let passed = pass(&mut from, &mut back);
        hang_up(&from, &back);
        passed
    });
    let passed = pass(&mut caller, &mut node);
    hang_up(&caller, &node);
    let _ = answers.join();
    passed
}

/// Either end may have done so already.
fn hang_up(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}
