//! The rules of the fold by name, so that a test can switch one off and show what goes wrong without it.

use crate::rules::rules;

rules! {
    /// a put or patch that is not newer changes nothing
    NewerOnly,
    /// a delete that is not newer changes nothing
    NewerDeletes,
    /// a delete of an id that was never seen keeps the version of the delete
    UnseenIsKept,
    /// a deleted item keeps its version
    DeletedIsKept,
    /// an item that a put does not name is deleted
    PutForgets,
    /// a put also forgets the versions of deleted items that it does not name
    PutForgetsDeleted,
    /// an item that a put names with an older version is not deleted
    StaleIsNamed,
    /// an environment of a put that is refused is not applied
    PutJudges,
    /// an environment of a patch that is refused is not applied
    PatchJudges,
    /// an environment that a put names, and that is refused, is not deleted
    RefusedIsNamed,
    /// a put of which everything is refused changes nothing
    AllRefused,
    /// a put with some refused environments is an error
    PartlyIsError,
    /// every put that is applied completes the configuration
    PutCompletes,
    /// keys expire before a message is applied
    EndsFirst,
    /// a key is accepted at its last millisecond
    StrictlyAfter,
    /// mobile keys expire, too
    MobileEnds,
    /// an update cancels the earlier expiries of its keys
    UpdateCancels,
    /// a delete cancels the expiries of its keys
    DeleteCancels,
    /// a put that does not name an environment cancels the expiries of its keys
    PutCancels,
    /// the one expiring key is not accepted after its expiry
    PastIsOver,
    /// an entry of a list is not accepted after its expiry
    PastEntryIsOver,
    /// a primary key that is also the expiring key does not expire
    PrimaryStays,
    /// a primary key in a list does not expire
    ListedPrimaryStays,
    /// if a list has a value twice, its last entry is used
    LastEntry,
    /// keys for a part of the environment are not accepted
    ViewsAreDropped,
    /// the primary key is accepted even if it is for a part of the environment
    PrimaryViewStays,
    /// if there is a list, only its keys are accepted
    ListAlone,
    /// a newer version of a filter takes effect
    FilterUpdates,
    /// a put without environments is held back
    HoldsEmpty,
    /// a put without environments is applied if there is nothing to lose
    HoldsSomething,
    /// another put replaces the one that is held back
    PutReplacesHeld,
    /// the end of the connection drops a put that is held back
    EndDropsHeld,
    /// a put that was held back does not delete what was patched since
    HeldSparesPatched,
    /// an event that was understood makes the state valid
    EventIsLife,
    /// a failure makes a valid state interrupted
    FailureInterrupts,
    /// `reconnect` is not a failure
    ReconnectIsNone,
    /// the first complete configuration is reported
    CompleteIsTold,
    /// an error is reported each time
    ErrorsAreTold,
}
