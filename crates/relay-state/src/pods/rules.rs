//! The rules of the folds by name, so that a test can switch one off and show what goes wrong without it.

use crate::rules::rules;

rules! {
    /// 1: the first message of a connection is `connected`
    ConnectedFirst,
    /// 1: there is only one `connected`
    ConnectedOnce,
    /// 2: a start above the last sequence is followed by a gap
    GapIsDueAbove,
    /// 2: a start at another position than a restored cursor is followed by a gap
    GapIsDueElsewhere,
    /// 2: without a cursor the start is the resume position
    StartIsResume,
    /// 2: a restored cursor takes its sequence from the start
    StartTellsSequence,
    /// 3: a new epoch that no gap announced is a gap
    EpochChange,
    /// 3: the epoch is compared at the message after `connected`
    EpochAfterConnected,
    /// 4: `sent` of an event or a gap is one more than the last `sent`
    SentOfEvents,
    /// 4: `sent` of a bookmark equals the last `sent`
    SentOfBookmarks,
    /// 4: a message that cannot be read counts as sent
    UnreadableCounts,
    /// 5: an event whose sequence is not above the last one is dropped
    Duplicates,
    /// 5: an event with the last sequence and another hash is a gap
    Rewind,
    /// 5: a bookmark with the last sequence and another hash is a gap
    RewindOfBookmark,
    /// 5: a second `catchup_complete` is dropped
    OneCatchup,
    /// 5: a bookmark does not move the position back
    BookmarksMoveOn,
    /// 6: sequences do not jump
    SequenceJump,
    /// 6: an event names the last hash as its previous hash
    PreviousHash,
    /// 6: no bookmark is ahead of the last event
    BookmarkAhead,
    /// 6: where only a hash is known, no bookmark has another hash than the last event
    BookmarkElsewhere,
    /// 7: a heartbeat may stand for a lost `catchup_complete`
    LostCatchup,
    /// 7: a heartbeat that says `catching_up` does not stand for it
    CatchingUp,
    /// a hole is first repaired by resuming
    HealFirst,
    /// a hole that is still there after that is a gap
    HealOnce,
    /// a hole at another place is also repaired by resuming first
    HealEachPlace,
    /// messages that were decoded after a hole are discarded
    DiscardAfterHole,
    /// the gap of a hole ends before the message that showed the hole
    GapEndsBefore,
    /// after the gap of a hole, messages are counted from the relay's number
    CountIsTheRelays,
    /// a gap sets the last position
    GapSetsPosition,
    /// a gap sets the epoch
    GapSetsEpoch,
    /// a message that cannot be read is a gap
    UnreadableIsGap,
    /// the id of a message that cannot be read is the last position
    UnreadableMovesOn,
    /// a list that is older than the stream is refused
    OlderList,
    /// a list is asked for with the last position
    AtLeast,
    /// after a gap without a position, the list has to reach the next position
    ListReachesGap,
    /// after a list of another epoch the stream is resumed
    OtherEpochList,
    /// the plain state continues from a list of another epoch
    PlainGoesOnFromList,
    /// a message that waits for a list is discarded when the stream is resumed
    PendingIsDiscarded,
    /// the end of a connection is handled after the list that is being read
    EndWaitsForList,
    /// the end of a connection is handled after the message that waits
    EndWaitsForPending,
    /// cache 1: an event that the list already contains changes nothing
    InsideList,
    /// what the caller is still processing is not acknowledged
    AckAfterCaller,
    /// the end of a catch-up acknowledges the last position, not its own
    CatchupAcksLast,
    /// only a bookmark at the last position is acknowledged
    BookmarkAcksLast,
    /// pods that show a past state are marked as history
    HistoryIsMarked,
}
