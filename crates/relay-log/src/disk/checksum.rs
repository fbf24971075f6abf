//! The checksum of every file: CRC32C.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC32C over these parts, one after the other.
///
/// Every page that is read from a disk is checked before it is returned, so this is a considerable part of a replay.
/// `crc-fast` is used because it takes the widest instructions of the processor, which helps most with entries of some
/// hundred bytes.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    // Another name of the same algorithm.
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
