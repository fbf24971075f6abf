//! The queue of events before the store, and the checkpoints.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use relay_log::Checkpoint;
use relay_proto::error::chain;
use tokio::sync::{Notify, oneshot};

use super::{Log, View};
use crate::store::{Encoder, Record, StoreError};

/// Limits of queued events and bytes; writers wait while the queue is full.
const EVENTS: usize = 4096;
const BYTES: usize = 8 << 20;
/// Bytes of events after which a checkpoint is made, at least; also a multiple of the size of the last one.
const CHECKPOINT_AFTER: u64 = 16 << 20;
const CHECKPOINT_TIMES: u64 = 2;
/// The first delay between attempts of a store that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified when there is room again.
    room: Notify,
    checkpoints: Checkpoints,
}

struct State {
    /// The pods after all queued events.
    view: View,
    waiting: VecDeque<Record>,
    bytes: usize,
    /// Writers that wait until the store has taken the present queue.
    callers: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// Whether a writer does not wait for its events, so that they must not be dropped.
    ahead: bool,
    writing: bool,
    /// Why no more events are accepted.
    dead: Option<StoreError>,
}

#[derive(Default)]
struct Checkpoints {
    wanted: AtomicBool,
    busy: AtomicBool,
    /// Bytes of events since the last one, and its size.
    since: AtomicU64,
    size: AtomicU64,
}

impl Queue {
    pub(super) fn new(view: View) -> Self {
        let state = State {
            view,
            waiting: VecDeque::new(),
            bytes: 0,
            callers: Vec::new(),
            ahead: false,
            writing: false,
            dead: None,
        };
        Self { state: Mutex::new(state), room: Notify::new(), checkpoints: Checkpoints::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> View {
        self.state().view.clone()
    }

    /// Whether there is room. The current writer can rely on the result.
    fn has_room(&self) -> Result<bool, StoreError> {
        let state = self.state();
        match &state.dead {
            Some(why) => Err(why.clone()),
            None => Ok(state.waiting.len() < EVENTS && state.bytes < BYTES),
        }
    }

    /// Adds events; true when no task is passing them to the store yet.
    fn add(
        &self,
        records: Vec<Record>,
        view: &View,
        caller: Option<oneshot::Sender<Result<(), StoreError>>>,
    ) -> bool {
        let mut state = self.state();
        state.bytes += records.iter().map(|record| record.body().len()).sum::<usize>();
        state.waiting.extend(records);
        state.view = view.clone();
        state.ahead |= caller.is_none();
        state.callers.extend(caller);
        !std::mem::replace(&mut state.writing, true)
    }

    /// Drops queued events, because the store refused the events before them.
    fn give_back(&self, view: View, error: &StoreError) {
        let mut state = self.state();
        state.view = view;
        state.bytes = 0;
        state.waiting.clear();
        for caller in state.callers.drain(..) {
            let _ = caller.send(Err(error.clone()));
        }
        if !error.may_pass() {
            state.dead = Some(error.clone());
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Whether a sequence is in the queue; an error when the store will never get it.
    fn still_has(&self, sequence: u64) -> Result<bool, StoreError> {
        let state = self.state();
        match &state.dead {
            Some(why) => Err(why.clone()),
            None => Ok(state.view.sequence >= sequence),
        }
    }

    /// All queued events, with the view after them.
    fn take(&self) -> Option<Group> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            state.writing = false;
            return None;
        }
        state.bytes = 0;
        let group = Group {
            records: std::mem::take(&mut state.waiting).into(),
            view: state.view.clone(),
            callers: std::mem::take(&mut state.callers),
            ahead: std::mem::take(&mut state.ahead),
        };
        drop(state);
        self.room.notify_waiters();
        Some(group)
    }
}

struct Group {
    records: Vec<Record>,
    view: View,
    callers: Vec<oneshot::Sender<Result<(), StoreError>>>,
    ahead: bool,
}

impl Log {
    /// Queues events, with the view after them. Returns when the store has taken them; or, when the writer is
    /// ahead, when there is room.
    pub(super) async fn enqueue(
        self: &Arc<Self>,
        records: Vec<Record>,
        view: &View,
        ahead: bool,
    ) -> Result<(), StoreError> {
        let (caller, told) = oneshot::channel();
        let begin = loop {
            let room = self.queue.room.notified();
            if self.queue.has_room()? {
                break self.queue.add(records, view, (!ahead).then_some(caller));
            }
            room.await;
        };
        if begin {
            // A store in memory takes them without waiting; otherwise a task continues.
            let mut writing = Box::pin(self.clone().write_on());
            if futures_util::poll!(writing.as_mut()) == Poll::Pending {
                tokio::spawn(writing);
            }
        }
        if ahead { Ok(()) } else { told.await.unwrap_or_else(|_| Err(self.ended())) }
    }

    /// Waits until the store has taken everything up to a sequence.
    pub(super) async fn taken_up_to(&self, sequence: u64) -> Result<(), StoreError> {
        let mut head = self.watch_head();
        loop {
            let room = self.queue.room.notified();
            if *head.borrow_and_update() >= sequence {
                return Ok(());
            }
            if !self.queue.still_has(sequence)? {
                // It was refused, and is not retried.
                return Err(self.ended());
            }
            tokio::select! {
                _ = head.changed() => {}
                () = room => {}
            }
        }
    }

    /// Passes queued events to the store until the queue is empty.
    async fn write_on(self: Arc<Self>) {
        while let Some(group) = self.queue.take() {
            let Group { records, view, callers, ahead } = group;
            let mut pause = FIRST_PAUSE;
            let result = loop {
                let result = self.events.append(&records).await;
                self.set_not_taken(result.as_ref().err());
                match result {
                    Err(error) if ahead && error.may_pass() => {
                        tracing::warn!(error = %chain(&error), "the store does not take events; it is tried again");
                        tokio::time::sleep(jittered(pause)).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    result => break result,
                }
            };
            match &result {
                Ok(()) => {
                    if pause > FIRST_PAUSE {
                        tracing::info!("the store takes events again");
                    }
                    self.show(view);
                    self.count(&records);
                }
                Err(error) => self.queue.give_back((*self.view()).clone(), error),
            }
            for caller in callers {
                let _ = caller.send(result.clone());
            }
        }
    }

    fn ended(&self) -> StoreError {
        let why = self.events.log().closed();
        why.unwrap_or_else(|| relay_log::Error::Closed { why: "its writer is gone".into() }).into()
    }

    /// Makes the first checkpoint, so that there always is one. A log in memory needs none.
    pub(super) async fn begin_checkpoints(&self) -> Result<(), StoreError> {
        if !self.events.outlives_process() {
            return Ok(());
        }
        self.queue.checkpoints.wanted.store(true, Ordering::Relaxed);
        let recovery = self.events.recover().await?;
        match recovery.checkpoint() {
            Some(newest) => self.queue.checkpoints.size.store(newest.body.len() as u64, Ordering::Relaxed),
            None => self.checkpoint().await?,
        }
        Ok(())
    }

    /// Counts stored events, and makes a checkpoint after enough of them.
    fn count(self: &Arc<Self>, records: &[Record]) {
        let checkpoints = &self.queue.checkpoints;
        if !checkpoints.wanted.load(Ordering::Relaxed) {
            return;
        }
        let bytes = records.iter().map(|record| record.body().len() as u64).sum();
        let since = checkpoints.since.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let enough = CHECKPOINT_AFTER.max(CHECKPOINT_TIMES * checkpoints.size.load(Ordering::Relaxed));
        if since >= enough && !checkpoints.busy.swap(true, Ordering::AcqRel) {
            let log = self.clone();
            tokio::spawn(async move {
                if let Err(error) = log.checkpoint().await {
                    tracing::warn!(%error, "a checkpoint could not be made; the next one is tried later");
                }
                log.queue.checkpoints.busy.store(false, Ordering::Release);
            });
        }
    }

    /// Stores a checkpoint of the current view.
    async fn checkpoint(&self) -> Result<(), StoreError> {
        let view = self.view();
        let position = view.sequence;
        self.queue.checkpoints.since.store(0, Ordering::Relaxed);
        let encoding = move || {
            let mut encoder = Encoder::new(&view.hash, view.last_event, view.pods.len());
            for (key, entry) in &view.pods {
                encoder.pod(key, entry.uid.as_deref(), &entry.labels, &entry.json);
            }
            encoder.finish()
        };
        let body = tokio::task::spawn_blocking(encoding).await.map_err(|_| self.ended())?;
        self.queue.checkpoints.size.store(body.len() as u64, Ordering::Relaxed);
        Ok(self.events.log().save_checkpoint(Checkpoint { position, body }).await?)
    }

    /// Waits until the queue is stored, and makes a last checkpoint.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        let target = self.queue.state().view.sequence;
        let mut head = self.watch_head();
        let waited = tokio::time::timeout(LONGEST_PAUSE, head.wait_for(|head| *head >= target)).await.is_ok();
        if !waited {
            tracing::warn!("the store did not take everything before the end");
        }
        if self.queue.checkpoints.wanted.load(Ordering::Relaxed) && self.events.log().closed().is_none() {
            self.checkpoint().await?;
        }
        Ok(())
    }
}

/// Adds up to a quarter, so that many servers do not retry at the same time.
fn jittered(pause: Duration) -> Duration {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    pause + pause.mul_f64(f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX) / 4.0)
}
