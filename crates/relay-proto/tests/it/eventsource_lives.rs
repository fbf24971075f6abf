//! Random runs of a connection, and the corpus of the fuzz target that plays them.

use std::path::Path;

use proptest::prelude::*;

use crate::eventsource_life::life;

proptest! {
    #[test]
    fn any_life(settings: [u8; 8], happenings in prop::collection::vec(any::<u8>(), 0..300)) {
        life(&[&settings[..], &happenings].concat());
    }
}

#[test]
fn the_fuzz_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/fuzz/corpus/eventsource_life");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        life(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 20, "{inputs} inputs");
}
