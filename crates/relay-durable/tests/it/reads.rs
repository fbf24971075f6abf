//! Reading, and every error that a server can make during it.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use relay_durable::{
    Checkpoint, Content, Delivery, DurableStream, End, ErrorKind, Fetched, LiveMode, Offset, ReadEvent,
    ReaderConfig, TokenSource,
};
use relay_testkit::{Peer, Reply, Script};

use crate::*;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

fn config(mode: LiveMode) -> ReaderConfig {
    ReaderConfig::default()
        .mode(mode)
        .retry_base(Duration::from_millis(1))
        .retry_cap(Duration::from_millis(5))
        .retry_for(Some(Duration::from_secs(10)))
}

fn events(body: &str) -> Reply {
    Reply::sse().send(body.to_owned())
}

fn control(offset: &str) -> String {
    format!("event: control\ndata:{{\"streamNextOffset\":\"{offset}\"}}\n\n")
}

fn closing(offset: &str) -> String {
    format!("event: control\ndata:{{\"streamNextOffset\":\"{offset}\",\"streamClosed\":true}}\n\n")
}

fn data(lines: &str) -> String {
    let lines: String = lines.split('\n').map(|line| format!("data:{line}\n")).collect();
    format!("event: data\n{lines}\n")
}

/// All data, with a comma after each message, and how the read ended.
async fn read_all(
    stream: &DurableStream,
    config: ReaderConfig,
    from: &str,
) -> (String, Result<End, (ErrorKind, String)>) {
    let mut reads = stream.read(config, Checkpoint::at(Offset::new(from).unwrap()));
    let mut all = Vec::new();
    while let Some(event) = reads.next().await {
        match event {
            Ok(ReadEvent::Piece(piece)) => match piece.content {
                Content::Bytes(bytes) => all.extend_from_slice(&bytes),
                Content::Messages(messages) => {
                    messages.iter().for_each(|message| all.extend_from_slice(&[&message[..], b","].concat()));
                }
            },
            Ok(ReadEvent::End(end)) => {
                let rest = reads.next().await;
                assert!(rest.is_none(), "{rest:?} behind the end");
                return (String::from_utf8(all).unwrap(), Ok(end));
            }
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.url(), stream.url());
                return (String::from_utf8(all).unwrap(), Err((error.kind(), error.to_string())));
            }
        }
    }
    panic!("no end")
}

struct Case {
    name: &'static str,
    mode: LiveMode,
    replies: Vec<Reply>,
    reads: &'static str,
    /// The kind of the error, and its text without the URL.
    fails: Option<(ErrorKind, &'static str)>,
    /// The queries in order; HEAD has none.
    asks: &'static [&'static str],
}

fn case(
    name: &'static str,
    mode: LiveMode,
    replies: impl Into<Vec<Reply>>,
    reads: &'static str,
    fails: impl Into<Option<(ErrorKind, &'static str)>>,
    asks: &'static [&'static str],
) -> Case {
    Case { name, mode, replies: replies.into(), reads, fails: fails.into(), asks }
}

async fn check(cases: Vec<Case>) {
    for case in cases {
        let count = case.replies.len();
        let script = case.replies.into_iter().fold(Script::new(), |script, reply| script.on("/s", reply));
        let peer = Peer::start(script).await;
        let (data, end) = read_all(&stream(&peer), config(case.mode), "-1").await;
        assert_eq!(data, case.reads, "{}", case.name);
        match (case.fails, end) {
            (None, Ok(_)) => {}
            (Some((kind, words)), Err((found, said))) => {
                assert_eq!(found, kind, "{}: {said}", case.name);
                assert!(said.contains(words), "{}: {said}", case.name);
            }
            (wanted, end) => panic!("{}: wanted {wanted:?}, got {end:?}", case.name),
        }
        let asks: Vec<String> = peer.requests().iter().map(|request| request.target().to_owned()).collect();
        let wanted: Vec<String> = case
            .asks
            .iter()
            .map(|query| if query.is_empty() { "/s".to_owned() } else { format!("/s?{query}") })
            .collect();
        assert_eq!(asks, wanted, "{}", case.name);
        assert_eq!(count, asks.len(), "{}", case.name);
    }
}

#[tokio::test]
async fn bodies_that_break_off_are_asked_for_again() {
    let text = |body: &'static str| says(200, "9", "up-to-date", TEXT, body);
    let json = |body: &'static str| says(200, "9", "up-to-date", JSON, body);
    let half = |kind: &str, sent: &[u8]| {
        with(Reply::new(200, kind, sent.to_vec()).declare_length(99).cut(), "9", "up-to-date")
    };
    let twice: &[&str] = &["offset=-1", "offset=-1"];
    let chunk_head = Reply::raw().send(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nstream-next-offset: 9\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\nabc\r\n1",
    );
    check(vec![
        case("a body", LiveMode::Off, [half(TEXT, b"abc"), text("abcdef")], "abcdef", None, twice),
        case("a chunk's head", LiveMode::Off, [chunk_head, text("abcdef")], "abcdef", None, twice),
        case("a character", LiveMode::Off, [half(TEXT, b"a\xc3"), text("a\u{e9}")], "a\u{e9}", None, twice),
        case("messages", LiveMode::Off, [half(JSON, b"[1,22,3"), json("[1,22,33]")], "1,22,33,", None, twice),
        case("an array that is not whole", LiveMode::Off, [json("[1,2"), json("[1,2]")], "1,2,", None, twice),
        case(
            "twice not whole",
            LiveMode::Off,
            [json("[1,2"), json("[1,2")],
            "",
            (ErrorKind::Malformed, "offset -1"),
            twice,
        ),
        case(
            "no array",
            LiveMode::Off,
            [json("{}"), json("{}")],
            "",
            (ErrorKind::Malformed, "offset -1"),
            twice,
        ),
        case("nothing at all", LiveMode::Off, [json("")], "", None, &["offset=-1"]),
        case(
            "204 to a catch-up",
            LiveMode::Off,
            [says(204, "9", "up-to-date", "", ""), says(204, "9", "up-to-date", "", "")],
            "",
            (ErrorKind::Malformed, "offset -1"),
            twice,
        ),
    ])
    .await;
}

#[tokio::test]
async fn answers_that_make_no_sense_end_it_with_the_offset() {
    let twice: &[&str] = &["offset=-1", "offset=-1"];
    let html = || says(200, "", "", "text/html", "<html>");
    let gzip = || says(200, "9", "up-to-date content-encoding=gzip", TEXT, "\u{1f}");
    let cut_gzip = || {
        let half = Reply::new(200, TEXT, &b"\x1f\x8b\x08\x00"[..]).declare_length(99).cut();
        with(half, "9", "up-to-date content-encoding=gzip")
    };
    let cached = || says(200, "7", "", JSON, "[1]");
    check(vec![
        case("a page", LiveMode::Off, [html(), html()], "", (ErrorKind::Malformed, "offset -1"), twice),
        case("gzip unasked", LiveMode::Off, [gzip(), gzip()], "", (ErrorKind::Malformed, "gzip"), twice),
        case(
            "gzip, cut",
            LiveMode::Off,
            [cut_gzip(), cut_gzip()],
            "",
            (ErrorKind::Malformed, "offset -1"),
            twice,
        ),
        case(
            "an endless cached answer",
            LiveMode::Off,
            [cached(), cached(), cached(), cached(), cached(), cached()],
            "1,",
            (ErrorKind::NoProgress, "offset 7"),
            &["offset=-1", "offset=7", "offset=7", "offset=7", "offset=7", "offset=7"],
        ),
        case(
            "an offset that goes back: deleted and made again",
            LiveMode::Off,
            [cached(), says(200, "3", "", JSON, "[9]"), says(200, "3", "", JSON, "[9]")],
            "1,",
            (ErrorKind::Malformed, "offset 7"),
            &["offset=-1", "offset=7", "offset=7"],
        ),
        case(
            "an offset that needs encoding",
            LiveMode::Off,
            [says(200, "a+b%#;:\u{7e}", "", TEXT, "x"), says(200, "b", "up-to-date", TEXT, "y")],
            "xy",
            None,
            &["offset=-1", "offset=a%2Bb%25%23%3B%3A~"],
        ),
        case(
            "404",
            LiveMode::Off,
            [says(404, "", "", TEXT, "no")],
            "",
            (ErrorKind::NotFound, "not found"),
            &["offset=-1"],
        ),
        case(
            "410",
            LiveMode::Off,
            [says(410, "", "", TEXT, "")],
            "",
            (ErrorKind::Gone, "offset -1"),
            &["offset=-1"],
        ),
        case(
            "403",
            LiveMode::Off,
            [says(403, "", "", TEXT, "")],
            "",
            (ErrorKind::NotAuthorised, "not authorised"),
            &["offset=-1"],
        ),
        case(
            "400",
            LiveMode::Off,
            [says(400, "", "", TEXT, "bad\nwords")],
            "",
            (ErrorKind::Refused, "400: bad words"),
            &["offset=-1"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn events_are_held_until_their_control() {
    let head = || says(200, "9", "", JSON, "");
    let asked: &[&str] = &["", "live=sse&offset=-1"];
    let again: &[&str] = &["", "live=sse&offset=-1", "live=sse&offset=-1"];
    let all = data("[1]") + &data("[2,3]") + &closing("9");
    check(vec![
        case("all before one control", LiveMode::Sse, [head(), events(&all)], "1,2,3,", None, asked),
        case(
            "data that no control follows comes again",
            LiveMode::Sse,
            [head(), events(&data("[1]")), events(&all)],
            "1,2,3,",
            None,
            again,
        ),
        case(
            "cut in an event, behind a control",
            LiveMode::Sse,
            [
                head(),
                events(&(data("[1]") + &control("3") + "event: data\ndata:[2,")),
                events(&(data("[2]") + &closing("9"))),
            ],
            "1,2,",
            None,
            &["", "live=sse&offset=-1", "live=sse&offset=3"],
        ),
        case(
            "unknown events, comments, and a control without data",
            LiveMode::Sse,
            [
                head(),
                events(
                    &(": hi\n\nevent: new\ndata: {}\n\n".to_owned()
                        + &control("3")
                        + &data("[1]")
                        + &closing("9")),
                ),
            ],
            "1,",
            None,
            asked,
        ),
        case(
            "an empty control, twice",
            LiveMode::Sse,
            [head(), events("event: control\ndata:\n\n"), events("event: control\ndata:\n\n")],
            "",
            (ErrorKind::Malformed, "offset -1"),
            again,
        ),
        case(
            "a malformed control, once",
            LiveMode::Sse,
            [head(), events("event: control\ndata:{no\n\n"), events(&all)],
            "1,2,3,",
            None,
            again,
        ),
        case(
            "another type than events, when nothing else will do",
            LiveMode::Sse,
            [head(), says(200, "9", "", "text/html", "<html>"), says(200, "9", "", "text/html", "<html>")],
            "",
            (ErrorKind::Malformed, "offset -1"),
            again,
        ),
        case(
            "data that the control's offset does not cover is not given out",
            LiveMode::Sse,
            [
                head(),
                events(
                    &(data("[1]")
                        + &control("3")
                        + &data("[0]")
                        + &control("3")
                        + &data("[2]")
                        + &closing("9")),
                ),
            ],
            "1,2,",
            None,
            asked,
        ),
    ])
    .await;
    let base64 = |body: &str| Reply::sse().header("stream-sse-data-encoding", "base64").send(body.to_owned());
    let head = || says(200, "9", "", "application/octet-stream", "");
    check(vec![
        case(
            "base64 in lines",
            LiveMode::Sse,
            [head(), base64(&(data("aGVs\nbG8=") + &data("") + &data("IQ==") + &closing("9")))],
            "hello!",
            None,
            asked,
        ),
        case(
            "a quad that is cut",
            LiveMode::Sse,
            [head(), base64(&(data("aGVsb") + &closing("9"))), base64(&(data("aGVsbG8=") + &closing("9")))],
            "hello",
            None,
            again,
        ),
    ])
    .await;
}

#[tokio::test]
async fn live_reads_fall_back_and_wait() {
    let caught_up = |kind: &str, body: &str| says(200, "3", "up-to-date stream-cursor=c", kind, body);
    let polled = || says(200, "9", "closed", JSON, "[2]");
    let fallback: &[&str] = &["offset=-1", "cursor=c&live=sse&offset=3", "cursor=c&live=long-poll&offset=3"];
    check(vec![
        case(
            "text never goes through events unasked",
            LiveMode::Auto,
            [caught_up(TEXT, "a\r\nb\r"), says(200, "9", "closed", TEXT, "c")],
            "a\r\nb\rc",
            None,
            &["offset=-1", "cursor=c&live=long-poll&offset=3"],
        ),
        case(
            "events refused",
            LiveMode::Auto,
            [caught_up(JSON, "[1]"), says(400, "", "", TEXT, ""), polled()],
            "1,2,",
            None,
            fallback,
        ),
        case(
            "events of another type",
            LiveMode::Auto,
            [caught_up(JSON, "[1]"), says(200, "", "", "text/html", ""), polled()],
            "1,2,",
            None,
            fallback,
        ),
        case(
            "a cursor that goes missing is kept",
            LiveMode::LongPoll,
            [
                says(200, "3", "up-to-date stream-cursor=c", JSON, "[1]"),
                says(200, "5", "up-to-date", JSON, "[2]"),
                says(204, "5", "closed", "", ""),
            ],
            "1,2,",
            None,
            &[
                "live=long-poll&offset=-1",
                "cursor=c&live=long-poll&offset=3",
                "cursor=c&live=long-poll&offset=5",
            ],
        ),
        case(
            "a closed stream costs no further request",
            LiveMode::Auto,
            [says(200, "3", "closed", JSON, "[1]")],
            "1,",
            None,
            &["offset=-1"],
        ),
    ])
    .await;
    // Data that is longer than a piece comes in several pieces, whatever the control event covers. After a cut it does
    // not come twice.
    let head = says(200, "9", "", JSON, "");
    let half: String = (0..50).map(|n| data(&format!("[{n}]"))).collect();
    let whole = half.clone() + &data("[50]") + &closing("9");
    let peer =
        Peer::start(Script::new().on("/s", head).on("/s", events(&half)).on("/s", events(&whole))).await;
    let (all, end) = read_all(&stream(&peer), config(LiveMode::Sse).batch_bytes(10), "-1").await;
    assert_eq!((all, end), ((0..=50).map(|n| format!("{n},")).collect(), Ok(End::Closed)));
}

#[tokio::test]
async fn retry_after_is_a_floor_in_every_form() {
    let busy = |after: &str| {
        let body = Reply::new(503, TEXT, "").header("Retry-After", after);
        Peer::start(Script::new().on("/s", body).always("/s", says(200, "1", "up-to-date", TEXT, "x")))
    };
    let began = Instant::now();
    let peer = busy("1").await;
    assert_eq!(read_all(&stream(&peer), config(LiveMode::Off), "-1").await.0, "x");
    assert!(began.elapsed() >= Duration::from_secs(1));
    for past in ["Sat, 21 Nov 2020 13:02:00 GMT", "soon"] {
        let (began, peer) = (Instant::now(), busy(past).await);
        assert_eq!(read_all(&stream(&peer), config(LiveMode::Off), "-1").await.0, "x");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    for huge in ["86400", "99999999999999999999", "Fri, 21 Nov 2098 13:02:00 GMT"] {
        let (began, peer) = (Instant::now(), busy(huge).await);
        let (_, end) = read_all(&stream(&peer), config(LiveMode::Off), "-1").await;
        let (kind, words) = end.unwrap_err();
        assert!(kind == ErrorKind::TimedOut && words.contains("503"), "{huge}: {words}");
        assert!(began.elapsed() < Duration::from_secs(5), "nobody waits for what is too late: {huge}");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_anew_once() {
    let script = || {
        Script::new().answer("/s", |request| match request.header("authorization") {
            Some("Bearer new") => says(200, "1", "up-to-date", TEXT, "x"),
            _ => Reply::empty(401),
        })
    };
    for (fresh, asked, kind) in [("new", 2, None), ("old", 1, Some(ErrorKind::NotAuthorised))] {
        let peer = Peer::start(script()).await;
        let token = TokenSource::refreshing(move |again| async move {
            Ok::<_, std::io::Error>(if again { fresh.into() } else { "old".into() })
        });
        let stream = builder(&peer).token(token).build().unwrap().stream("/s").unwrap();
        let (data, end) = read_all(&stream, config(LiveMode::Off), "-1").await;
        assert_eq!(end.as_ref().err().map(|(kind, _)| *kind), kind, "{end:?}");
        assert_eq!((data.as_str(), peer.requests().len()), (if kind.is_none() { "x" } else { "" }, asked));
        assert!(!format!("{end:?}").contains("old"));
    }
}

#[tokio::test]
async fn by_kind_of_data() {
    let json = || says(200, "9", "closed", JSON, r#"[1, {"a": [2]}]"#);
    let text = || says(200, "9", "up-to-date", TEXT, "text");
    let start = || Checkpoint::at(Offset::START);
    let peer = Peer::start(
        Script::new().on("/s", json()).on("/s", json()).on("/s", json()).on("/s", text()).on("/s", text()),
    )
    .await;
    let stream = stream(&peer);
    let off = || config(LiveMode::Off);
    let mut values = stream.read_json::<serde_json::Value>(off(), start());
    let Some(Ok(Delivery::Batch(batch))) = values.next().await else { panic!("no batch") };
    assert_eq!(serde_json::to_string(&batch.items).unwrap(), r#"[1,{"a":[2]}]"#);
    assert!(batch.whole && batch.up_to_date && batch.closed);
    assert_eq!(batch.checkpoint.offset.as_str(), "9");
    assert!(matches!(values.next().await, Some(Ok(Delivery::End(End::Closed)))));
    assert!(values.next().await.is_none());

    let batch = stream.read_raw(off(), start()).next().await.unwrap().unwrap().batch().unwrap();
    assert_eq!(batch.items, ["1", r#"{"a": [2]}"#]);
    let error = stream.read_json::<u64>(off(), start()).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    let batch = stream.read_bytes(off(), start()).next().await.unwrap().unwrap().batch().unwrap();
    assert_eq!((&batch.items[..], batch.closed), (&b"text"[..], false));
    let error = stream.read_raw(off(), start()).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentType);

    let mut wrong = stream.read(off().retry_base(Duration::ZERO), start());
    let error = wrong.next().await.unwrap().unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("retry_base"));
    assert!(wrong.next().await.is_none());
}

#[tokio::test]
async fn one_answer_unless_nothing_has_changed() {
    let script = Script::new().answer("/s", |request| match request.header("if-none-match") {
        Some("\"e1\"") => Reply::empty(304),
        _ => with(Reply::new(200, TEXT, "abc"), "3", "up-to-date etag=\"e1\""),
    });
    let peer = Peer::start(script).await;
    let stream = stream(&peer);
    let Fetched::Snapshot(first) = stream.get(&Offset::START, None, 3).await.unwrap() else { panic!("304") };
    assert_eq!((&first.body[..], first.offset.as_str(), first.up_to_date), (&b"abc"[..], "3", true));
    let etag = first.etag.as_deref();
    assert_eq!(stream.get(&Offset::START, etag, 3).await.unwrap(), Fetched::NotModified);
    assert_eq!(stream.get(&Offset::START, None, 2).await.unwrap_err().kind(), ErrorKind::TooLarge);
    // A 304 to a request without a condition is not a valid answer.
    let peer = Peer::start(Script::new().on("/s", Reply::empty(304))).await;
    let error = crate::stream(&peer).get(&Offset::START, None, 3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    // An answer that breaks off is requested again.
    let half = with(Reply::new(200, TEXT, "a").declare_length(3).cut(), "3", "");
    let peer = Peer::start(Script::new().on("/s", half).on("/s", says(200, "3", "", TEXT, "abc"))).await;
    let Fetched::Snapshot(whole) = crate::stream(&peer).get(&Offset::START, None, 3).await.unwrap() else {
        panic!("304")
    };
    assert_eq!(&whole.body[..], b"abc");
}
