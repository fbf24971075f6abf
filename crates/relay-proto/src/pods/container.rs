//! The parts of a pod that are objects themselves: its containers and its owner.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The object that controls a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its kind, such as `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// One container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its name within the pod.
    pub name: String,
    /// The image it runs.
    pub image: Option<String>,
    /// Whether its readiness probe holds.
    pub ready: bool,
    /// How often it was restarted.
    #[serde(alias = "restartCount")]
    pub restart_count: u32,
    /// `waiting`, `running` or `terminated`.
    pub state: Option<String>,
    /// Why it waits or ended, such as `CrashLoopBackOff`.
    pub reason: Option<String>,
    /// Its last exit code.
    #[serde(alias = "exitCode")]
    pub exit_code: Option<i32>,
    /// Its kind. Written unless it is [`ContainerKind::App`].
    #[serde(skip_serializing_if = "ContainerKind::is_app")]
    pub kind: ContainerKind,
    /// The signal that ended it, while it is terminated. Written when there is one, like the fields below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why its previous run ended, such as `OOMKilled`.
    #[serde(alias = "lastReason", skip_serializing_if = "Option::is_none")]
    pub last_reason: Option<String>,
    /// The exit code of its previous run.
    #[serde(alias = "lastExitCode", skip_serializing_if = "Option::is_none")]
    pub last_exit_code: Option<i32>,
    /// When its previous run ended.
    #[serde(alias = "lastFinishedAt", skip_serializing_if = "Option::is_none")]
    pub last_finished_at: Option<Timestamp>,
}

/// The type of a container's field, for readers without serde.
#[derive(Debug, Clone, Copy)]
pub(super) enum Holds {
    String,
    /// Text or null.
    Text,
    Flag,
    Count,
    /// A whole number of 32 bits, or null.
    Number,
}

/// Passes a table of the fields of [`Container`] to a macro, in the order of writing. A row is: whether the field
/// is `always` written, its type, its name, and its other names.
macro_rules! for_each_container_field {
    ($then:ident) => {
        $then! {
            always String name [];
            always Text image [];
            always Flag ready [];
            always Count restart_count ["restartCount"];
            always Text state [];
            always Text reason [];
            always Number exit_code ["exitCode"];
            sometimes String kind [];
            sometimes Number signal [];
            sometimes Text last_reason ["lastReason"];
            sometimes Number last_exit_code ["lastExitCode"];
            sometimes Text last_finished_at ["lastFinishedAt"];
        }
    };
}
pub(super) use for_each_container_field;

/// The kind of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ContainerKind {
    /// A regular container.
    #[default]
    App,
    /// It runs to its end before the regular containers start.
    Init,
    /// An init container that is restarted when it ends, and so runs beside the regular ones.
    Sidecar,
    /// Added later, for debugging.
    Ephemeral,
    /// A kind that this version does not know. It is not counted.
    #[serde(other)]
    Unknown,
}

impl ContainerKind {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    fn is_app(&self) -> bool {
        *self == Self::App
    }
}
