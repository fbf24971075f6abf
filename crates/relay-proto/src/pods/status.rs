//! STATUS, READY and RESTARTS: a pod in one line, as `kubectl get pods` prints it.
//!
//! The rule is Kubernetes' own (`printPod` of its table printer, version 1.35), told here once for both shapes of a
//! pod. A Kubernetes object holds all that the rule asks for. The flat shape holds nearly all: it says neither the
//! order in which the API server lists the containers' statuses, nor all conditions. So a relay that reads an object
//! whose flat fields would print otherwise adds what is printed (`printed`); all other pods do without.

use serde::{Deserialize, Serialize};

use super::pod::{Container, ContainerKind};

/// What `kubectl get pods` prints of a pod.
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
}

/// What the rule asks of a pod.
pub(super) struct Facts<'a> {
    pub(super) phase: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    /// Whether its condition says that it waits for a gate to be opened before it is scheduled.
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

/// What the rule asks of one container's status.
#[derive(Clone, Copy)]
pub(super) struct Fact<'a> {
    pub(super) sidecar: bool,
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) restarts: u32,
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
        let initializing = self.print_init(&mut printed);
        if !initializing || self.initialized {
            self.print_app(&mut printed);
        }
        let over = matches!(self.phase, Some("Succeeded" | "Failed"));
        if self.deleting && self.reason == Some("NodeLost") {
            printed.status = "Unknown".into();
        } else if self.deleting && !over {
            printed.status = "Terminating".into();
        }
        printed
    }

    /// Counts the init containers up to the one that the pod waits for; whether there is such a one.
    fn print_init(&self, printed: &mut Printed) -> bool {
        for (at, container) in self.init.iter().enumerate() {
            printed.restarts = printed.restarts.saturating_add(container.restarts);
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
            return true;
        }
        false
    }

    fn print_app(&self, printed: &mut Printed) {
        let sidecars = self.init.iter().filter(|container| container.sidecar);
        let restarts = sidecars.chain(&self.app).map(|container| container.restarts);
        printed.restarts = restarts.fold(0, u32::saturating_add);
        let mut running = false;
        // The first that has something to say is what is printed.
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

/// What flat fields say.
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
            // Before that they are told to wait.
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
            // A probe of its start may still be missing; then the relay says what is printed.
            started: matches!(state, State::Running),
            ready: container.ready,
            restarts: container.restart_count,
            state,
        }
    }
}

#[cfg(test)]
mod tests;
