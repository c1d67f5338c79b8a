//! A network that loses, delays, reorders and repeats messages, and whose links can be cut in
//! either direction. Messages travel as the real frames.

use super::random::Random;
use bytes::Bytes;
use ringlite_raft::{FRAME_HEADER_BYTES, Message, decode, encode};
use std::collections::{BTreeMap, BTreeSet};

const SHARD: u32 = 3;

/// How bad the network is while faults are on; chances per mille.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) repeat: u64,
    pub(crate) slow: u64,
    pub(crate) slow_time_max: u64,
}

impl Weather {
    pub(crate) const CALM: Weather = Weather {
        loss: 0,
        repeat: 0,
        slow: 0,
        slow_time_max: 1,
    };
}

pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// (from, to): nothing passes.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// By arrival time and a sequence number.
    under_way: BTreeMap<(u64, u64), (usize, usize, Vec<u8>)>,
    sequence: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) delivered: u64,
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Network {
        Network {
            weather,
            cut: BTreeSet::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            lost: 0,
            repeated: 0,
            delivered: 0,
        }
    }

    pub(crate) fn send(
        &mut self,
        (from, to): (usize, usize),
        message: &Message,
        now: u64,
        random: &mut Random,
    ) {
        if self.cut.contains(&(from, to)) || random.per_mille(self.weather.loss) {
            self.lost += 1;
            return;
        }
        let mut frame = Vec::new();
        encode(SHARD, message, &mut frame);
        let copies = 1 + u64::from(random.per_mille(self.weather.repeat));
        self.repeated += copies - 1;
        for _ in 0..copies {
            let slow = random.per_mille(self.weather.slow);
            let delay = random.between(1, if slow { self.weather.slow_time_max } else { 3 });
            self.sequence += 1;
            self.under_way
                .insert((now + delay, self.sequence), (from, to, frame.clone()));
        }
    }

    /// The messages that arrive now. A cut link also swallows what was under way.
    pub(crate) fn arrivals(&mut self, now: u64) -> Vec<(usize, usize, Message)> {
        let later = self.under_way.split_off(&(now + 1, 0));
        let due = std::mem::replace(&mut self.under_way, later);
        let mut arrived = Vec::new();
        for (from, to, frame) in due.into_values() {
            if self.cut.contains(&(from, to)) {
                self.lost += 1;
                continue;
            }
            let frame = Bytes::from(frame);
            let header = frame.first_chunk::<FRAME_HEADER_BYTES>().expect("a header");
            let (shard, message) =
                decode(header, frame.slice(FRAME_HEADER_BYTES..)).expect("a frame of ours");
            assert_eq!(shard, SHARD);
            self.delivered += 1;
            arrived.push((from, to, message));
        }
        arrived
    }
}
