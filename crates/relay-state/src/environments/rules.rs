//! The rules of the fold by name, so that a test can switch one off and show what goes wrong without it.

use crate::rules::rules;

rules! {
    /// a put or patch that is not newer changes nothing
    NewerOnly,
    /// a delete that is not newer changes nothing
    NewerDeletes,
    /// a delete of what was not seen keeps its version
    UnseenIsKept,
    /// what is deleted keeps its version
    DeletedIsKept,
    /// what a put does not have is gone
    PutForgets,
    /// so are versions of what was deleted
    PutForgetsDeleted,
    /// what a put has in an older version is not gone
    StaleIsNamed,
    /// what a put refuses is not taken
    PutJudges,
    /// what a patch refuses is not taken
    PatchJudges,
    /// what a put refuses is not gone
    RefusedIsNamed,
    /// a put of which everything is refused changes nothing
    AllRefused,
    /// a put that is refused in part is an error
    PartlyIsError,
    /// every put is complete
    PutCompletes,
    /// ends of keys come before a message
    EndsFirst,
    /// a key is accepted at its last millisecond
    StrictlyAfter,
    /// ends of mobile keys come too
    MobileEnds,
    /// an update takes back the ends of before
    UpdateCancels,
    /// so does a delete
    DeleteCancels,
    /// so does a put that does not have it
    PutCancels,
    /// the one expiring key is not taken after its time
    PastIsOver,
    /// nor is an entry of a list
    PastEntryIsOver,
    /// a primary key that expires too has no end
    PrimaryStays,
    /// nor has one in a list
    ListedPrimaryStays,
    /// of a value that is listed twice the last entry counts
    LastEntry,
    /// keys for a part of the environment are not accepted
    ViewsAreDropped,
    /// but the primary one is
    PrimaryViewStays,
    /// a list alone is the truth
    ListAlone,
    /// a newer version of a filter takes effect
    FilterUpdates,
    /// a put without environments is held back
    HoldsEmpty,
    /// unless there is nothing to lose
    HoldsSomething,
    /// another put takes the place of a held one
    PutReplacesHeld,
    /// the end of the connection takes it back
    EndDropsHeld,
    /// it spares what was patched meanwhile
    HeldSparesPatched,
    /// an event that was understood makes the state valid
    EventIsLife,
    /// a failure after that interrupts
    FailureInterrupts,
    /// `reconnect` is no failure
    ReconnectIsNone,
    /// the first complete configuration is told
    CompleteIsTold,
    /// an error is told each time
    ErrorsAreTold,
}
