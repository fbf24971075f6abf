//! Single-use tickets for streams.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relay_proto::pods::problem_codes;
use relay_proto::problem::Problem;
use relay_proto::time::Timestamp;

use super::Principal;
use crate::clock::{Clock, millis};
use crate::cursor::random_text;

/// The issued tickets. Bounded: the oldest are removed for new ones.
pub(crate) struct Sessions {
    clock: Clock,
    ttl: Duration,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// By the digest of the id, so that neither memory nor look-up times reveal ids.
    by_digest: HashMap<[u8; 32], Arc<Session>>,
    /// Oldest first; all tickets live equally long.
    order: VecDeque<([u8; 32], i64)>,
}

#[derive(Debug)]
struct Session {
    principal: Principal,
    client_id: Option<String>,
    expires_at: i64,
    used: Mutex<bool>,
}

/// A ticket that was valid when it was looked up. It is used up by [`Sessions::redeem`].
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Session>);

impl Sessions {
    /// Limit of tickets.
    const MAX: usize = 65_536;
    /// How long a ticket is remembered after its end, so that "used" and "expired" differ from "unknown".
    const REMEMBERED_MILLIS: i64 = 300_000;

    pub(crate) fn new(clock: Clock, ttl: Duration) -> Self {
        Self { clock, ttl, held: Mutex::default() }
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Makes a ticket; returns its id and its expiry.
    pub(crate) fn mint(&self, principal: Principal, client_id: Option<String>) -> (String, Timestamp) {
        let id = random_text::<24>();
        let now = self.clock.unix_millis();
        let expires_at = now.saturating_add(millis(self.ttl));
        let digest = *blake3::hash(id.as_bytes()).as_bytes();
        let session = Arc::new(Session { principal, client_id, expires_at, used: Mutex::new(false) });
        let mut held = self.held();
        held.forget(now.saturating_sub(Self::REMEMBERED_MILLIS), Self::MAX - 1);
        held.by_digest.insert(digest, session);
        held.order.push_back((digest, expires_at));
        (id, Timestamp::from_unix_millis(self.clock.time_of_day().saturating_add(millis(self.ttl))))
    }

    /// Looks at a ticket without using it.
    ///
    /// # Errors
    /// 401 `session-unknown`, `session-used` or `session-expired`.
    pub(crate) fn look_up(&self, id: &str, client_id: Option<&str>) -> Result<Ticket, Box<Problem>> {
        let unknown = |detail| Box::new(Problem::new(problem_codes::SESSION_UNKNOWN, detail));
        let session = self.held().by_digest.get(blake3::hash(id.as_bytes()).as_bytes()).cloned();
        let session = session.ok_or_else(|| unknown("session_id: no such session"))?;
        if let (Some(given), Some(bound)) = (client_id, &session.client_id)
            && given != bound
        {
            return Err(unknown("session_id: it was made for another client_id"));
        }
        self.check(&session, *session.used())?;
        Ok(Ticket(session))
    }

    /// Uses a ticket: of several holders exactly one succeeds. It is checked again, because its stream may have
    /// waited for a position.
    ///
    /// # Errors
    /// As [`Self::look_up`]; the ticket is then not used up.
    pub(crate) fn redeem(&self, ticket: Ticket) -> Result<(), Box<Problem>> {
        let mut used = ticket.0.used();
        self.check(&ticket.0, *used)?;
        *used = true;
        Ok(())
    }

    /// Checks that a ticket is valid now.
    fn check(&self, session: &Session, used: bool) -> Result<(), Box<Problem>> {
        let (code, detail) = if session.principal.revoked.is_cancelled() {
            let detail = "session_id: the credential it was made with is no longer valid";
            (problem_codes::SESSION_UNKNOWN, detail.to_owned())
        } else if used {
            (problem_codes::SESSION_USED, "session_id: a session opens one stream".to_owned())
        } else if self.clock.unix_millis() >= session.expires_at {
            let detail = format!("session_id: it was valid for {} s", self.ttl.as_secs_f64());
            (problem_codes::SESSION_EXPIRED, detail)
        } else {
            return Ok(());
        };
        Err(Box::new(Problem::new(code, detail)))
    }

    /// Tickets held, used and expired ones included.
    pub(crate) fn len(&self) -> usize {
        self.held().by_digest.len()
    }

    /// Removes tickets that ended long ago.
    pub(crate) fn sweep(&self) {
        let before = self.clock.unix_millis().saturating_sub(Self::REMEMBERED_MILLIS);
        self.held().forget(before, Self::MAX);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn forget(&mut self, expired_before: i64, max: usize) {
        while let Some((digest, expires_at)) = self.order.front()
            && (*expires_at < expired_before || self.order.len() > max)
        {
            self.by_digest.remove(digest);
            self.order.pop_front();
        }
    }
}

impl Ticket {
    pub(crate) fn principal(&self) -> &Principal {
        &self.0.principal
    }

    pub(crate) fn client_id(&self) -> Option<&str> {
        self.0.client_id.as_deref()
    }
}

impl Session {
    fn used(&self) -> MutexGuard<'_, bool> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("held", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use relay_proto::problem::ProblemCode;

    use super::*;

    fn code<T>(result: Result<T, Box<Problem>>) -> Option<ProblemCode> {
        let problem = result.err()?;
        problem_codes::ALL.iter().copied().find(|code| problem.is(*code))
    }

    #[test]
    fn a_ticket_works_once_for_its_client_and_in_its_time() {
        let clock = Clock::manual(0);
        let sessions = Sessions::new(clock.clone(), Duration::from_secs(30));
        let (id, expires_at) =
            sessions.mint(Principal::anyone(crate::auth::Namespaces::all()), Some("web".into()));
        assert!(id.len() >= 32, "at least 128 bits");
        assert_eq!(expires_at.as_str(), "1970-01-01T00:00:30Z");
        assert_eq!(code(sessions.look_up("nonsense", None)), Some(problem_codes::SESSION_UNKNOWN));
        assert_eq!(code(sessions.look_up(&id, Some("other"))), Some(problem_codes::SESSION_UNKNOWN));
        let first = sessions.look_up(&id, None).unwrap();
        let second = sessions.look_up(&id, Some("web")).unwrap();
        assert_eq!(first.client_id(), Some("web"));
        assert!(sessions.redeem(first).is_ok());
        assert_eq!(code(sessions.redeem(second)), Some(problem_codes::SESSION_USED));
        assert_eq!(code(sessions.look_up(&id, None)), Some(problem_codes::SESSION_USED));

        let (id, _) = sessions.mint(Principal::anyone(crate::auth::Namespaces::all()), None);
        clock.advance(Duration::from_millis(29_999));
        let in_time = sessions.look_up(&id, Some("anything")).unwrap();
        clock.advance(Duration::from_millis(1));
        assert_eq!(code(sessions.look_up(&id, None)), Some(problem_codes::SESSION_EXPIRED));
        assert_eq!(
            code(sessions.redeem(in_time)),
            Some(problem_codes::SESSION_EXPIRED),
            "it ran out on the way"
        );
    }

    #[test]
    fn tickets_end_with_their_credential() {
        let sessions = Sessions::new(Clock::manual(0), Duration::from_secs(30));
        let principal = Principal::anyone(crate::auth::Namespaces::all());
        let (id, _) = sessions.mint(principal.clone(), None);
        let ticket = sessions.look_up(&id, None).unwrap();
        principal.revoked.cancel();
        assert_eq!(code(sessions.redeem(ticket)), Some(problem_codes::SESSION_UNKNOWN));
        assert_eq!(code(sessions.look_up(&id, None)), Some(problem_codes::SESSION_UNKNOWN));
    }

    #[test]
    fn tickets_are_bounded_in_number_and_forgotten_in_time() {
        let clock = Clock::manual(0);
        let sessions = Sessions::new(clock.clone(), Duration::from_secs(30));
        let (first, _) = sessions.mint(Principal::anyone(crate::auth::Namespaces::all()), None);
        for _ in 0..Sessions::MAX {
            sessions.mint(Principal::anyone(crate::auth::Namespaces::all()), None);
        }
        assert_eq!(sessions.len(), Sessions::MAX);
        assert_eq!(code(sessions.look_up(&first, None)), Some(problem_codes::SESSION_UNKNOWN));
        clock.advance(Duration::from_secs(330));
        sessions.sweep();
        assert_eq!(sessions.len(), Sessions::MAX);
        clock.advance(Duration::from_millis(1));
        sessions.sweep();
        assert_eq!(sessions.len(), 0);
    }

    const DAYS: i64 = 400 * 24 * 3_600_000;

    #[test]
    fn a_jump_of_the_time_of_day_opens_and_closes_nothing() {
        for jump in [DAYS, -DAYS] {
            let clock = Clock::manual(DAYS);
            let sessions = Sessions::new(clock.clone(), Duration::from_secs(30));
            let mint = || sessions.mint(Principal::anyone(crate::auth::Namespaces::all()), None);
            let (expired, _) = mint();
            clock.advance(Duration::from_secs(30));
            let (open, _) = mint();
            clock.set_time_of_day(jump);
            assert_eq!(
                code(sessions.look_up(&expired, None)),
                Some(problem_codes::SESSION_EXPIRED),
                "{jump}"
            );
            sessions.redeem(sessions.look_up(&open, None).unwrap()).unwrap();
            sessions.sweep();
            assert_eq!(sessions.len(), 2, "nothing was forgotten at once");
            let (later, told) = mint();
            assert_eq!(told.unix_millis(), Some(DAYS + 60_000 + jump), "told in the time of day");
            clock.advance(Duration::from_secs(30));
            assert_eq!(code(sessions.look_up(&later, None)), Some(problem_codes::SESSION_EXPIRED));
        }
    }
}
