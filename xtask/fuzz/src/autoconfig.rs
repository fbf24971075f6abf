//! Properties of the messages of an auto-configuration stream, for any input.

use relay_proto::autoconfig::{
    Message, Patch, Path, PutContent, write_delete, write_environment, write_filter, write_patch, write_put,
};

/// The names of events from which the first byte chooses.
const EVENTS: [&str; 5] = ["put", "patch", "delete", "reconnect", "magic"];

/// An event is read or refused, without a panic. An event that was read means the same after it was written and read
/// again. The error of a refused event quotes nothing of it.
///
/// Input: a byte that chooses the event, then its data.
pub fn message(input: &[u8]) {
    let Some((&name, data)) = input.split_first() else { return };
    let (name, data) = (EVENTS[usize::from(name) % EVENTS.len()], String::from_utf8_lossy(data));
    let message = match Message::decode(name, &data) {
        Ok(message) => message,
        Err(error) => {
            assert!(error.offset() <= data.len(), "an error is inside its data");
            assert!(!error.rule().is_empty());
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "an error is one line");
            return;
        }
    };
    let mut again = String::new();
    match &message {
        Message::Put(put) if put.path == Path::All => write_content(&mut again, &put.content),
        Message::Patch(patch) => match &**patch {
            Patch { environment: Some(environment), path, .. } => {
                write_patch(&mut again, path, |out| write_environment(out, environment));
            }
            Patch { filter: Some(filter), path, .. } => {
                write_patch(&mut again, path, |out| write_filter(out, filter));
            }
            _ => return,
        },
        Message::Delete(delete) if delete.path != Path::Other => {
            write_delete(&mut again, &delete.path, delete.version);
        }
        _ => return,
    }
    let read = Message::decode(name, &again).expect("what was written can be read");
    assert_eq!(normal(read), normal(message));
}

fn write_content(out: &mut String, content: &PutContent<'_>) {
    let environments = content.environments.iter().map(|(id, environment)| (&**id, environment));
    let mut filters = content.filters.iter().map(|(id, filter)| (&**id, filter));
    write_put(out, environments, Some(&mut filters));
}

/// An expiring key without a value counts as absent, whatever its time is.
fn normal(mut message: Message<'_>) -> Message<'_> {
    let environments = match &mut message {
        Message::Put(put) => {
            put.content.environments.iter_mut().map(|(_, environment)| environment).collect()
        }
        Message::Patch(patch) => patch.environment.iter_mut().collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    for environment in environments {
        if environment.sdk_key.expiring.value.is_empty() {
            environment.sdk_key.expiring.timestamp = 0;
        }
    }
    message
}
