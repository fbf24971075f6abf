//! The rules of the folds by name, so that a test can switch one off and show what goes wrong without it.

use crate::rules::rules;

rules! {
    /// 1: the first message of a connection is `connected`
    ConnectedFirst,
    /// 1: there is one `connected` only
    ConnectedOnce,
    /// 2: a start above the last sequence is followed by a gap
    GapIsDueAbove,
    /// 2: a start elsewhere than at a restored cursor is followed by a gap
    GapIsDueElsewhere,
    /// 2: without a cursor the start is the resume position
    StartIsResume,
    /// 2: a restored cursor learns its sequence from the start
    StartTellsSequence,
    /// 3: a new epoch without a gap is a gap
    EpochChange,
    /// 3: the epoch is judged at the message after `connected`
    EpochAfterConnected,
    /// 4: `sent` of an event or gap is one more than before
    SentOfEvents,
    /// 4: `sent` of a bookmark is what it was
    SentOfBookmarks,
    /// 4: a message that cannot be read counts as sent
    UnreadableCounts,
    /// 5: an event that is not above the last is left
    Duplicates,
    /// 5: an event of the last sequence under another hash is a gap
    Rewind,
    /// 5: so is a bookmark
    RewindOfBookmark,
    /// 5: a second `catchup_complete` is left
    OneCatchup,
    /// 5: a bookmark moves no position back
    BookmarksMoveOn,
    /// 6: sequences have no jump
    SequenceJump,
    /// 6: an event names the last hash as the one before
    PreviousHash,
    /// 6: no bookmark is ahead of the last event
    BookmarkAhead,
    /// 6: nor, where only its hash is known, elsewhere
    BookmarkElsewhere,
    /// 7: a heartbeat may stand for a lost `catchup_complete`
    LostCatchup,
    /// 7: but not while it says `catching_up`
    CatchingUp,
    /// a hole is healed first
    HealFirst,
    /// a hole that shows again is a gap
    HealOnce,
    /// a hole elsewhere is healed first, too
    HealEachPlace,
    /// what was decoded after a hole is discarded
    DiscardAfterHole,
    /// a hole's gap ends before the message that showed it
    GapEndsBefore,
    /// after a hole's gap the count of messages is the relay's
    CountIsTheRelays,
    /// a gap sets the last position
    GapSetsPosition,
    /// a gap sets the epoch
    GapSetsEpoch,
    /// a message that cannot be read is a gap
    UnreadableIsGap,
    /// its id is the last position
    UnreadableMovesOn,
    /// a list older than the stream is not taken
    OlderList,
    /// a list is asked for with the last position
    AtLeast,
    /// the list after a gap without a position reaches the next position
    ListReachesGap,
    /// after a list of another epoch the stream is resumed
    OtherEpochList,
    /// the plain state goes on from such a list
    PlainGoesOnFromList,
    /// a message that waits for a list is discarded when the stream is resumed
    PendingIsDiscarded,
    /// an end of the connection waits for the list that is read
    EndWaitsForList,
    /// an end of the connection waits for the message that waits
    EndWaitsForPending,
    /// cache 1: an event that is inside the list changes nothing
    InsideList,
    /// nothing is acknowledged that the caller has in hand
    AckAfterCaller,
    /// a catch-up acknowledges the last position, not its own
    CatchupAcksLast,
    /// only a bookmark at the last position is acknowledged
    BookmarkAcksLast,
    /// pods that show history are marked
    HistoryIsMarked,
}
