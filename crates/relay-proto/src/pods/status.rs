//! STATUS, READY and RESTARTS: a pod in one line, as `kubectl get pods` prints it.
//!
//! The rule is that of Kubernetes (`printPod` of its table printer, version 1.35), for both shapes of a pod. A
//! Kubernetes object has all inputs of the rule. The flat shape has nearly all: it lacks the order of the
//! containers' statuses, and some conditions. So a relay adds the printed form (`printed`) to a pod whose flat
//! fields would print otherwise.

use serde::{Deserialize, Serialize};

use super::container::{Container, ContainerKind};
use crate::time::Timestamp;

/// The columns of `kubectl get pods` for a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Printed {
    /// STATUS, such as `Running`, `Completed`, `Terminating`, `CrashLoopBackOff`, `Init:1/2` or `Init:ExitCode:3`.
    pub status: String,
    /// The first number of READY: containers that are ready, sidecars included.
    pub ready: u32,
    /// The second number of READY: containers that are to run side by side, sidecars included.
    pub containers: u32,
    /// RESTARTS: of the init containers while the pod initialises, of containers and sidecars afterwards.
    pub restarts: u32,
    /// The time from which `kubectl` counts the age behind RESTARTS, as in `3 (5m ago)`: the last end of a
    /// restarted container. `None` when it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_restart: Option<Timestamp>,
}

/// Inputs of the rule: a pod.
pub(super) struct Facts<'a> {
    pub(super) phase: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    /// Whether its condition says that it waits for a scheduling gate.
    pub(super) gated: bool,
    /// Whether its condition `Ready` holds.
    pub(super) ready: bool,
    /// Whether its condition `Initialized` holds.
    pub(super) initialized: bool,
    pub(super) deleting: bool,
    /// How many init containers are specified, and how many containers and sidecars.
    pub(super) init_containers: usize,
    pub(super) containers: usize,
    /// The statuses, in their order.
    pub(super) init: Vec<Fact<'a>>,
    pub(super) app: Vec<Fact<'a>>,
}

/// Inputs of the rule: the status of one container.
#[derive(Clone, Copy)]
pub(super) struct Fact<'a> {
    pub(super) sidecar: bool,
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) restarts: u32,
    /// When it ended the time before.
    pub(super) last_end: Option<&'a Timestamp>,
    pub(super) state: State<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum State<'a> {
    /// Nothing is known.
    None,
    Waiting(&'a str),
    Running,
    Terminated {
        code: i32,
        signal: i32,
        reason: &'a str,
    },
}

impl Printed {
    fn count_restarts<'f>(&mut self, containers: impl Iterator<Item = &'f Fact<'f>> + Clone) {
        self.restarts = containers.clone().map(|container| container.restarts).fold(0, u32::saturating_add);
        let ends = containers.filter_map(|container| container.last_end);
        let ends = ends.filter_map(|end| Some((end.unix_millis()?, end)));
        let last = ends.max_by_key(|(millis, _)| *millis);
        self.last_restart = last.filter(|_| self.restarts > 0).map(|(_, end)| end.clone());
    }
}

impl Facts<'_> {
    pub(super) fn print(&self) -> Printed {
        let said = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let mut printed = Printed {
            status: said(self.reason).or_else(|| said(self.phase)).unwrap_or_else(|| "Unknown".into()),
            containers: self.containers as u32,
            ..Printed::default()
        };
        if self.gated {
            printed.status = "SchedulingGated".into();
        }
        let waits_for = self.print_init(&mut printed);
        let begun = &self.init[..waits_for.map_or(self.init.len(), |at| at + 1)];
        printed.count_restarts(begun.iter());
        if waits_for.is_none() || self.initialized {
            self.print_app(begun, &mut printed);
        }
        let over = matches!(self.phase, Some("Succeeded" | "Failed"));
        if self.deleting && self.reason == Some("NodeLost") {
            printed.status = "Unknown".into();
        } else if self.deleting && !over {
            printed.status = "Terminating".into();
        }
        printed
    }

    /// Checks the init containers up to the first that the pod waits for, and returns it.
    fn print_init(&self, printed: &mut Printed) -> Option<usize> {
        for (at, container) in self.init.iter().enumerate() {
            printed.status = match container.state {
                State::Terminated { code: 0, .. } => continue,
                _ if container.sidecar && container.started => {
                    printed.ready += u32::from(container.ready);
                    continue;
                }
                State::Terminated { code, signal, reason } => format!("Init:{}", ended(code, signal, reason)),
                State::Waiting(reason) if !matches!(reason, "" | "PodInitializing") => {
                    format!("Init:{reason}")
                }
                _ => format!("Init:{at}/{}", self.init_containers),
            };
            return Some(at);
        }
        None
    }

    fn print_app(&self, begun: &[Fact<'_>], printed: &mut Printed) {
        let sidecars = begun.iter().filter(|container| container.sidecar);
        printed.count_restarts(sidecars.chain(&self.app));
        let mut running = false;
        // The first container with a reason determines the text.
        for container in self.app.iter().rev() {
            match container.state {
                State::Waiting(reason) if !reason.is_empty() => printed.status = reason.into(),
                State::Terminated { code, signal, reason } => printed.status = ended(code, signal, reason),
                State::Running if container.ready => {
                    running = true;
                    printed.ready += 1;
                }
                _ => {}
            }
        }
        if running && printed.status == "Completed" {
            printed.status = if self.ready { "Running" } else { "NotReady" }.into();
        }
    }
}

/// How a container ended.
fn ended(code: i32, signal: i32, reason: &str) -> String {
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{code}"),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

/// The inputs of the rule from the flat fields.
pub(super) struct Flat<'a> {
    pub(super) phase: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    pub(super) ready: bool,
    pub(super) deleting: bool,
    pub(super) containers: &'a [Container],
}

impl Flat<'_> {
    pub(super) fn print(&self) -> Printed {
        use ContainerKind::{App, Init, Sidecar};
        let count =
            |kinds: &[ContainerKind]| self.containers.iter().filter(|c| kinds.contains(&c.kind)).count();
        let known = |kinds: &[ContainerKind]| {
            let of = |container: &&Container| kinds.contains(&container.kind) && container.state.is_some();
            self.containers.iter().filter(of).map(Fact::of).collect::<Vec<_>>()
        };
        let app = known(&[App]);
        Facts {
            phase: self.phase,
            reason: self.reason,
            gated: false,
            ready: self.ready,
            // Before that, they are always shown as waiting.
            initialized: app.iter().any(|fact| !matches!(fact.state, State::Waiting("" | "PodInitializing"))),
            deleting: self.deleting,
            init_containers: count(&[Init, Sidecar]),
            containers: count(&[App, Sidecar]),
            init: known(&[Init, Sidecar]),
            app,
        }
        .print()
    }
}

impl<'a> Fact<'a> {
    fn of(container: &'a Container) -> Self {
        let reason = container.reason.as_deref().unwrap_or_default();
        let state = match container.state.as_deref() {
            Some("waiting") => State::Waiting(reason),
            Some("running") => State::Running,
            Some("terminated") => State::Terminated {
                code: container.exit_code.unwrap_or_default(),
                signal: container.signal.unwrap_or_default(),
                reason,
            },
            _ => State::None,
        };
        Self {
            sidecar: container.kind == ContainerKind::Sidecar,
            // The startup probe may not have succeeded yet; then the relay sends the printed form.
            started: matches!(state, State::Running),
            ready: container.ready,
            restarts: container.restart_count,
            last_end: container.last_finished_at.as_ref(),
            state,
        }
    }
}

#[cfg(test)]
mod tests;
