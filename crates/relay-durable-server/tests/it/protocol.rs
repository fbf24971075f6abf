//! The protocol, with the rules numbered as in `docs/durable.md`: the answers to single requests.

use crate::raw::{Answer, Running};

const TEXT: (&str, &str) = ("content-type", "text/plain");
const JSON: (&str, &str) = ("content-type", "application/json");

/// A producer's three headers, and the content type of what it sends.
async fn produce(server: &Running, path: &str, (id, epoch, seq): (&str, &str, &str), body: &str) -> Answer {
    let headers = [("producer-id", id), ("producer-epoch", epoch), ("producer-seq", seq), TEXT];
    server.ask(&format!("POST {path}"), &headers, body.as_bytes()).await
}

#[tokio::test]
async fn a1_a_stream_is_closed_once_and_for_good_and_stays_readable() {
    let server = Running::memory().await;
    server.put("/s", &[TEXT]).await.expect(201);
    server.post("/s", "text/plain", "kept").await.expect(204);
    let closed = server.ask("POST /s", &[("stream-closed", "true")], b"").await.expect(204);
    let again = server.ask("POST /s", &[("stream-closed", "true")], b"").await.expect(204);
    assert_eq!((again.offset(), again.header("stream-closed")), (closed.offset(), "true"));
    server.post("/s", "text/plain", "late").await.expect(409);
    assert_eq!(server.get("/s").await.expect(200).text(), "kept");
    // The path that is reserved for control interfaces is never a stream.
    for method in ["PUT", "GET", "POST", "DELETE", "HEAD"] {
        server.ask(&format!("{method} /__ds/jwks.json"), &[TEXT], b"").await.expect(404);
    }
    server.end().await;
}

#[tokio::test]
async fn a2_each_method_has_its_statuses() {
    let server = Running::memory().await;
    for method in ["GET", "HEAD", "DELETE"] {
        server.ask(&format!("{method} /none"), &[], b"").await.expect(404);
    }
    server.post("/none", "text/plain", "x").await.expect(404);
    let made = server.put("/s", &[TEXT]).await.expect(201);
    assert_eq!(made.header("location"), format!("http://{}/s", server.addr));
    server.put("/s", &[TEXT]).await.expect(200);
    server.put("/s", &[JSON]).await.expect(409);
    server.put("/s", &[TEXT, ("stream-closed", "true")]).await.expect(409);
    server.put("/s", &[TEXT, ("stream-ttl", "60")]).await.expect(409);
    server.post("/s", "text/plain", "x").await.expect(204);
    server.post("/s", "text/plain", "").await.expect(400);
    server.ask("POST /s", &[], b"x").await.expect(400);
    server.post("/s", "application/json", "1").await.expect(409);
    for live in ["long-poll", "sse"] {
        server.get(&format!("/s?live={live}")).await.expect(400);
    }
    server.get("/s?offset=-1&live=else").await.expect(400);
    let other = server.ask("PATCH /s", &[], b"").await.expect(405);
    assert!(other.header("allow").contains("DELETE"));
    let head = server.ask("HEAD /s", &[], b"").await.expect(200);
    assert_eq!((head.body.len(), head.header("content-type")), (0, "text/plain"));
    server.ask("DELETE /s", &[], b"").await.expect(204);
    server.ask("DELETE /s", &[], b"").await.expect(404);
    server.get("/s").await.expect(404);
    // A stream that is created again is a new one.
    server.put("/s", &[JSON]).await.expect(201);
    assert_eq!(server.get("/s").await.expect(200).text(), "[]");
    // A stream with a first body, which is closed from the beginning.
    server.ask("PUT /born", &[TEXT, ("stream-closed", "true")], b"all of it").await.expect(201);
    let all = server.get("/born").await.expect(200);
    assert_eq!((all.text(), all.header("stream-closed")), ("all of it", "true"));
    server.end().await;
}

#[tokio::test]
async fn a2_a_body_above_the_limit_is_refused() {
    let config = crate::raw::config().max_body(1000);
    let server = Running::of(relay_durable_server::Server::bind("127.0.0.1:0", config).await.unwrap());
    server.put("/s", &[TEXT]).await.expect(201);
    server.post("/s", "text/plain", &"x".repeat(1000)).await.expect(204);
    server.post("/s", "text/plain", &"x".repeat(1001)).await.expect(413);
    assert_eq!(server.get("/s").await.text().len(), 1000);
    server.end().await;
}

#[tokio::test]
async fn a3_request_headers_are_read_strictly_where_it_matters() {
    let server = Running::memory().await;
    for bad in ["", "+1", "1.5", "1e3", "01", "-1", "x"] {
        server.put("/t", &[TEXT, ("stream-ttl", bad)]).await.expect(400);
    }
    server.put("/t", &[TEXT, ("stream-expires-at", "tomorrow")]).await.expect(400);
    let both = [TEXT, ("stream-ttl", "60"), ("stream-expires-at", "2099-01-01T00:00:00Z")];
    server.put("/t", &both).await.expect(400);
    server.put("/none", &[("stream-forked-from", "/gone")]).await.expect(404);
    // Content types are compared without parameters and case. A request that only closes the stream may have any type.
    server.put("/s", &[("content-type", "application/json; charset=utf-8")]).await.expect(201);
    server.post("/s", "Application/JSON", "1").await.expect(204);
    let headers = [("stream-closed", "true"), ("content-type", "image/png")];
    // Only the value `true` closes.
    server.ask("POST /s", &[("stream-closed", "yes"), JSON], b"2").await.expect(204);
    assert_eq!(server.ask("HEAD /s", &[], b"").await.header("stream-closed"), "");
    server.ask("POST /s", &headers, b"").await.expect(204);
    assert_eq!(server.ask("HEAD /s", &[], b"").await.header("stream-closed"), "true");
    // Without a type, the stream has bytes.
    server.put("/bytes", &[]).await.expect(201);
    assert_eq!(server.ask("HEAD /bytes", &[], b"").await.header("content-type"), "application/octet-stream");
    // A body in chunks.
    let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let request = "POST /bytes HTTP/1.1\r\nhost: r\r\ncontent-type: application/octet-stream\r\n\
                   connection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(server.get("/bytes").await.text(), "abc");
    server.end().await;
}

#[tokio::test]
async fn a3_a_writers_sequence_must_grow_bytewise() {
    let server = Running::memory().await;
    server.put("/s", &[TEXT]).await.expect(201);
    let append = async |seq: &str| server.ask("POST /s", &[("stream-seq", seq), TEXT], b"x").await.status;
    for (seq, status) in [("5", 204), ("10", 409), ("5", 409), ("50", 204), ("a", 204), ("B", 409)] {
        assert_eq!(append(seq).await, status, "{seq}");
    }
    // Without a sequence nothing is compared, and the last one is still known.
    server.post("/s", "text/plain", "x").await.expect(204);
    assert_eq!(append("a").await, 409);
    // A stream that is created again has no last sequence.
    server.ask("DELETE /s", &[], b"").await.expect(204);
    server.put("/s", &[TEXT]).await.expect(201);
    assert_eq!(append("1").await, 204);
    server.end().await;
}

#[tokio::test]
async fn a4_answers_say_where_the_stream_is_and_how_they_may_be_kept() {
    let server = Running::memory().await;
    let made = server.put("/s", &[TEXT, ("stream-ttl", "600")]).await.expect(201);
    let first = server.post("/s", "text/plain", "one").await.expect(204);
    assert!(made.offset() < first.offset());
    let read = server.get("/s").await.expect(200);
    assert_eq!((read.offset(), read.header("stream-up-to-date")), (first.offset(), "true"));
    assert_eq!(read.header("cache-control"), "public, max-age=60, stale-while-revalidate=300");
    let head = server.ask("HEAD /s", &[], b"").await.expect(200);
    assert_eq!((head.offset(), head.header("stream-ttl")), (first.offset(), "600"));
    assert_eq!(head.header("cache-control"), "no-store");
    // Unchanged content is not sent again. New data changes the tag, and so does the end of the stream.
    let tag = read.header("etag").to_owned();
    let again = server.ask("GET /s", &[("if-none-match", &tag)], b"").await.expect(304);
    assert_eq!((again.body.len(), again.header("etag"), again.offset()), (0, &*tag, first.offset()));
    assert_eq!(again.header("cache-control"), read.header("cache-control"));
    for matching in [format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        server.ask("GET /s", &[("if-none-match", &matching)], b"").await.expect(304);
    }
    server.ask("GET /s", &[("if-none-match", "\"x\"")], b"").await.expect(200);
    server.post("/s", "text/plain", "two").await.expect(204);
    let longer = server.ask("GET /s", &[("if-none-match", &tag)], b"").await.expect(200);
    server.ask("POST /s", &[("stream-closed", "true")], b"").await.expect(204);
    let tag = longer.header("etag").to_owned();
    let closed = server.ask("GET /s", &[("if-none-match", &tag)], b"").await.expect(200);
    assert_eq!(closed.header("stream-closed"), "true");
    server.put("/e", &[TEXT, ("stream-expires-at", "2099-01-01T00:00:00Z")]).await.expect(201);
    let head = server.ask("HEAD /e", &[], b"").await.expect(200);
    assert_eq!(head.header("stream-expires-at"), "2099-01-01T00:00:00Z");
    server.end().await;
}

#[tokio::test]
async fn a4_pages_of_any_origin_may_use_it() {
    let server = Running::memory().await;
    server.put("/s", &[TEXT]).await.expect(201);
    let ask = [("origin", "http://page.example"), ("access-control-request-method", "POST")];
    let preflight = server.ask("OPTIONS /s", &ask, b"").await.expect(204);
    for (header, part) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "DELETE"),
        ("access-control-allow-headers", "producer-seq"),
        ("access-control-allow-headers", "if-none-match"),
    ] {
        assert!(preflight.header(header).contains(part), "{header}: {}", preflight.header(header));
    }
    for answer in [server.get("/s").await.expect(200), server.get("/none").await.expect(404)] {
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(answer.header("access-control-expose-headers").contains("stream-next-offset"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    server.end().await;
}

#[tokio::test]
async fn a5_offsets_sort_and_are_answered_where_they_are_not_at_an_end() {
    let server = Running::memory().await;
    server.put("/s", &[TEXT]).await.expect(201);
    let mut offsets = vec![server.get("/s?offset=-1").await.offset()];
    for n in 0..12 {
        offsets.push(server.post("/s", "text/plain", &format!("<{n}>")).await.expect(204).offset());
    }
    assert!(offsets.is_sorted() && offsets.windows(2).all(|pair| pair[0] != pair[1]), "{offsets:?}");
    let plain = |offset: &String| offset.len() < 256 && !offset.contains([',', '&', '=', '?', '/']);
    assert!(offsets.iter().all(plain), "{offsets:?}");
    for (n, offset) in offsets.iter().enumerate().take(12) {
        assert!(server.get(&format!("/s?offset={offset}")).await.text().starts_with(&format!("<{n}>")));
    }
    // At the tail and after it there is no data, and the answer has the tail.
    for offset in [offsets[12].as_str(), "9000000000000000_9000000000000000"] {
        let end = server.get(&format!("/s?offset={offset}")).await.expect(200);
        assert_eq!(
            (end.text(), end.offset(), end.header("stream-up-to-date")),
            ("", offsets[12].clone(), "true")
        );
    }
    let now = server.get("/s?offset=now").await.expect(200);
    assert_eq!((now.text(), now.offset(), now.header("etag")), ("", offsets[12].clone(), ""));
    assert_eq!(now.header("cache-control"), "no-store");
    for bad in ["0", "0_0", "abc", "-2", "NOW", "", "1,2", "%2B1"] {
        server.get(&format!("/s?offset={bad}")).await.expect(400);
    }
    server.get(&format!("/s?offset={0}&offset={0}", offsets[1])).await.expect(400);
    server.end().await;
}

#[tokio::test]
async fn a6_producers_write_each_number_once() {
    let server = Running::memory().await;
    server.put("/s", &[TEXT]).await.expect(201);
    produce(&server, "/s", ("p", "0", "1"), "x").await.expect(409);
    let first = produce(&server, "/s", ("p", "0", "0"), "a").await.expect(200);
    assert_eq!((first.header("producer-epoch"), first.header("producer-seq")), ("0", "0"));
    let again = produce(&server, "/s", ("p", "0", "0"), "other").await.expect(204);
    assert_eq!((again.offset(), again.header("producer-seq")), (first.offset(), "0"));
    let gap = produce(&server, "/s", ("p", "0", "5"), "x").await.expect(409);
    let told = (gap.header("producer-expected-seq"), gap.header("producer-received-seq"));
    assert_eq!((told, gap.header("stream-closed")), (("1", "5"), ""));
    produce(&server, "/s", ("p", "2", "1"), "x").await.expect(400);
    produce(&server, "/s", ("p", "2", "0"), "b").await.expect(200);
    assert_eq!(produce(&server, "/s", ("p", "1", "0"), "x").await.expect(403).header("producer-epoch"), "2");
    // Another producer has its own state.
    produce(&server, "/s", ("q", "0", "0"), "c").await.expect(200);
    for (id, epoch, seq) in
        [("", "0", "0"), ("p", "x", "0"), ("p", "0", "-1"), ("p", "9007199254740992", "0")]
    {
        produce(&server, "/s", (id, epoch, seq), "x").await.expect(400);
    }
    server.ask("POST /s", &[("producer-id", "p"), TEXT], b"x").await.expect(400);
    assert_eq!(server.get("/s").await.text(), "abc");
    // The request that closed the stream may be repeated; no other may follow.
    let closing = async |seq: &str, body: &str| {
        let tuple = [("producer-id", "q"), ("producer-epoch", "0"), ("producer-seq", seq)];
        let headers = [&tuple[..], &[("stream-closed", "true"), TEXT]].concat();
        server.ask("POST /s", &headers, body.as_bytes()).await
    };
    let end = closing("1", "d").await.expect(200);
    let again = closing("1", "d").await.expect(204);
    assert_eq!((again.offset(), again.header("stream-closed")), (end.offset(), "true"));
    let late = closing("2", "e").await.expect(409);
    assert_eq!((late.header("stream-closed"), late.offset()), ("true", end.offset()));
    assert_eq!(server.get("/s").await.text(), "abcd");
    server.end().await;
}

#[tokio::test]
async fn a6_what_is_refused_does_not_count() {
    let server = Running::memory().await;
    server.put("/s", &[JSON]).await.expect(201);
    let send = async |seq: &str, body: &str| {
        let headers = [("producer-id", "p"), ("producer-epoch", "0"), ("producer-seq", seq), JSON];
        server.ask("POST /s", &headers, body.as_bytes()).await.status
    };
    assert_eq!(send("0", "{").await, 400);
    assert_eq!(send("0", "1").await, 200);
    assert_eq!(send("1", "[]").await, 400);
    assert_eq!(send("1", "2").await, 200);
    assert_eq!(server.get("/s").await.text(), "[1,2]");
    server.end().await;
}

#[tokio::test]
async fn a7_messages_are_json_values_and_arrays_are_opened_by_one_level() {
    let server = Running::memory().await;
    server.put("/s", &[JSON]).await.expect(201);
    assert_eq!(server.get("/s").await.text(), "[]");
    for body in ["{\"a\":[1, 2]}", "[[1,2]]", "[3, \"vier\" ,null]", " 5.50 ", "[\"]\",\"\\\"[\"]"] {
        server.post("/s", "application/json", body).await.expect(204);
    }
    let all = server.get("/s").await.expect(200);
    assert_eq!(all.header("content-type"), "application/json");
    let values: serde_json::Value = serde_json::from_slice(&all.body).unwrap();
    let expected = serde_json::json!([{"a": [1, 2]}, [1, 2], 3, "vier", null, 5.5, "]", "\"["]);
    assert_eq!(values, expected);
    assert!(all.text().contains("5.50"), "numbers stay as they were written: {}", all.text());
    for bad in ["[]", "{", "[1,]", "[1", "1 2", "nul", "[1]]", "\u{feff}1", "'a'"] {
        server.post("/s", "application/json", bad).await.expect(400);
    }
    server.ask("POST /s", &[JSON], b"\"\xff\"").await.expect(400);
    server.ask("PUT /empty", &[JSON], b"[]").await.expect(201);
    assert_eq!(server.get("/empty").await.text(), "[]");
    server.ask("PUT /first", &[JSON], b"[1,2]").await.expect(201);
    assert_eq!(server.get("/first").await.text(), "[1,2]");
    server.end().await;
}

#[tokio::test]
async fn a11_forks_share_what_was_and_nothing_that_comes() {
    let server = Running::memory().await;
    server.put("/source", &[JSON]).await.expect(201);
    let first = server.post("/source", "application/json", "1").await.expect(204).offset();
    let tail = server.post("/source", "application/json", "[2,3,4]").await.expect(204).offset();
    let fork = async |path: &str, more: &[(&str, &str)]| {
        server.put(path, &[&[("stream-forked-from", "/source")], more].concat()).await
    };
    assert_eq!(fork("/all", &[]).await.expect(201).offset(), tail);
    fork("/all", &[]).await.expect(200);
    fork("/all", &[("stream-fork-offset", &first)]).await.expect(409);
    fork("/one", &[("stream-fork-offset", &first)]).await.expect(201);
    let part = [("stream-fork-offset", &*first), ("stream-fork-sub-offset", "2")];
    fork("/part", &part).await.expect(201);
    fork("/source", &[]).await.expect(409);
    fork("/x", &[("stream-fork-offset", "0")]).await.expect(400);
    fork("/x", &[("stream-fork-offset", "9000000000000000_0000000000000000")]).await.expect(400);
    fork("/x", &[("stream-fork-offset", &first), ("stream-fork-sub-offset", "4")]).await.expect(400);
    fork("/x", &[("stream-fork-sub-offset", "x")]).await.expect(400);
    fork("/x", &[TEXT]).await.expect(409);
    server.put("/x", &[("stream-fork-offset", &first)]).await.expect(400);
    server.get("/x").await.expect(404);
    server.post("/source", "application/json", "5").await.expect(204);
    server.post("/one", "application/json", "\"own\"").await.expect(204);
    for (path, all) in
        [("/source", "[1,2,3,4,5]"), ("/all", "[1,2,3,4]"), ("/one", "[1,\"own\"]"), ("/part", "[1,2,3]")]
    {
        assert_eq!(server.get(path).await.text(), all, "{path}");
    }
    // A closed source has open forks.
    server.ask("POST /source", &[("stream-closed", "true")], b"").await.expect(204);
    fork("/open", &[]).await.expect(201);
    server.post("/open", "application/json", "6").await.expect(204);
    // A deleted source stays for its forks, but cannot be reached, until the last fork is deleted.
    server.ask("DELETE /source", &[], b"").await.expect(204);
    for method in ["GET", "HEAD", "DELETE"] {
        server.ask(&format!("{method} /source"), &[], b"").await.expect(410);
    }
    server.post("/source", "application/json", "7").await.expect(410);
    server.put("/source", &[JSON]).await.expect(409);
    fork("/late", &[]).await.expect(409);
    for path in ["/all", "/one", "/part", "/open"] {
        server.get("/source").await.expect(410);
        server.ask(&format!("DELETE {path}"), &[], b"").await.expect(204);
    }
    server.get("/source").await.expect(404);
    server.end().await;
}

#[tokio::test]
async fn a11_a_fork_knows_no_producer_and_no_sequence_of_its_source() {
    let server = Running::memory().await;
    server.put("/source", &[TEXT, ("stream-ttl", "600")]).await.expect(201);
    produce(&server, "/source", ("p", "3", "0"), "a").await.expect(200);
    server.ask("POST /source", &[("stream-seq", "9"), TEXT], b"b").await.expect(204);
    let made = server.ask("PUT /fork", &[("stream-forked-from", "/source")], b"c").await.expect(201);
    assert_eq!(server.ask("HEAD /fork", &[], b"").await.header("stream-ttl"), "600", "it is inherited");
    assert_eq!(server.get("/fork").await.text(), "abc");
    produce(&server, "/fork", ("p", "0", "0"), "d").await.expect(200);
    server.ask("POST /fork", &[("stream-seq", "1"), TEXT], b"e").await.expect(204);
    let own = server.get(&format!("/fork?offset={}", made.offset())).await;
    assert_eq!(own.text(), "de");
    server.end().await;
}
