//! The checksum of every file: CRC32C.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC32C over these parts, one behind the other.
///
/// Each page of a disk is summed before it is served, so that this is a fair part of a replay. By `crc-fast`, because
/// it folds with the widest instructions that the processor has, which entries of some hundred bytes gain most by.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    // The algorithm by its other name.
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    u32::try_from(digest.finalize()).expect("it has 32 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn the_check_value_of_crc32c_comes_out() {
        assert_eq!(super::crc32c(&[b"123", b"", b"456789"]), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn parts_are_summed_as_another_library_sums_the_whole(
            head in prop::collection::vec(any::<u8>(), 0..40),
            rest in prop::collection::vec(any::<u8>(), 0..5000),
            at in any::<prop::sample::Index>(),
        ) {
            let (body, tail) = rest.split_at(at.index(rest.len() + 1));
            let whole = [&head[..], body, tail].concat();
            prop_assert_eq!(super::crc32c(&[&head, body, tail]), crc32c::crc32c(&whole));
        }
    }
}
