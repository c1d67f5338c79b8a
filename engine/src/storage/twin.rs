//! One record in two copies, written one after the other: at any moment one of them is whole.
//!
//! Copy A is durable before copy B is touched, and nothing that depends on the record happens before
//! both are. At start the valid copy with the higher sequence holds, and the other one is written
//! anew. (Alternating copies would forget the newer record when it rots: design, section 6.)

use std::path::Path;

/// Chooses between what was read of copy A and of copy B; `None` if neither is valid. Also tells
/// which copy, 0 or 1, has to be written anew, if one has.
pub(super) fn choose<T>(
    copies: [Option<T>; 2],
    sequence: impl Fn(&T) -> u64,
    path: &Path,
) -> Option<(T, Option<usize>)> {
    let is_a = copies[0].is_some();
    match copies {
        [Some(a), Some(b)] if sequence(&a) == sequence(&b) => Some((a, None)),
        [Some(a), Some(b)] if sequence(&a) > sequence(&b) => Some((a, Some(1))),
        [Some(_), Some(b)] => Some((b, Some(0))),
        [Some(one), None] | [None, Some(one)] => {
            tracing::warn!(
                "one of the two copies of {} is bad; it is written anew",
                path.display()
            );
            Some((one, Some(usize::from(is_a))))
        }
        [None, None] => None,
    }
}
