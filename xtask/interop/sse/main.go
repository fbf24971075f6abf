// Command sse-server serves event streams with github.com/launchdarkly/eventsource, for tests.
//
// Usage: sse-server LISTEN [EVENTS]
//
// The log begins with EVENTS events (default none): a server that is killed and started again with its last number
// continues as the same server. Event n depends on n only, see event. Prints its address as its first line. Plain
// HTTP/1.1 and HTTP/2 (with prior knowledge); gzip for clients that accept it.
//
//	GET  /events             events after Last-Event-ID (without one, all events), then published events
//	GET  /hurried            the same, from the log as it grows; every connection ends after 20 ms
//	POST /publish?count=N    adds N events; /hurried gets them one by one, with pauses
//	POST /comment?text=T     a comment on /events, written as it is
//	POST /close              ends the open streams of /events
//	GET  /requests           one line of JSON for each request for events so far
//	POST /exit               closes everything and exits
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/launchdarkly/eventsource"
)

const channel = "events"

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: sse-server LISTEN [EVENTS]"))
	}
	log := &log{grown: make(chan struct{})}
	if len(os.Args) > 2 {
		count, err := strconv.Atoi(os.Args[2])
		if err != nil {
			fail(err)
		}
		log.add(count)
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fail(err)
	}
	fmt.Println(listener.Addr())
	if err := serve(listener, log); err != http.ErrServerClosed {
		fail(err)
	}
}

func serve(listener net.Listener, log *log) error {
	events, hurried := eventsource.NewServer(), eventsource.NewServer()
	for _, server := range []*eventsource.Server{events, hurried} {
		server.ReplayAll, server.Gzip = true, true
	}
	hurried.MaxConnTime = 20 * time.Millisecond
	events.Register(channel, snapshots{log})
	hurried.Register(channel, followers{log})

	server := &http.Server{Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	var requests requests
	exit := make(chan struct{})
	http.Handle("GET /events", requests.record(events.Handler(channel)))
	http.Handle("GET /hurried", requests.record(hurried.Handler(channel)))
	http.HandleFunc("GET /requests", requests.list)
	http.HandleFunc("POST /publish", func(w http.ResponseWriter, r *http.Request) {
		count, err := strconv.Atoi(r.FormValue("count"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for range count {
			added := log.add(1)
			<-events.PublishWithAcknowledgment([]string{channel}, event(added))
			log.announce()
		}
	})
	http.HandleFunc("POST /comment", func(w http.ResponseWriter, r *http.Request) {
		events.PublishComment([]string{channel}, r.FormValue("text"))
	})
	http.HandleFunc("POST /close", func(w http.ResponseWriter, r *http.Request) {
		events.Unregister(channel, true)
		events.Register(channel, snapshots{log})
	})
	http.HandleFunc("POST /exit", func(w http.ResponseWriter, r *http.Request) { close(exit) })
	end := make(chan error, 1)
	go func() {
		<-exit
		events.Close()
		hurried.Close()
		end <- server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	if err := <-end; err != nil {
		return err
	}
	return http.ErrServerClosed
}

// event is the event with this number, counted from 1. The client side knows the same rule.
type event int

func (n event) Id() string { return strconv.Itoa(int(n)) }

func (n event) Event() string { return []string{"", "put", "patch"}[n%3] }

func (n event) Data() string {
	switch n % 5 {
	case 0:
		return fmt.Sprintf("first of %d\n\nthird: after an empty one\n", n)
	case 1:
		return ""
	case 2:
		return fmt.Sprintf(" a space before %d … and more than ASCII ✓", n)
	case 3:
		return strings.Repeat(fmt.Sprintf("%d ", n), 200)
	default:
		return fmt.Sprintf(`{"n":%d}`, n)
	}
}

// log holds the number of events, and wakes goroutines that wait for more.
type log struct {
	mutex sync.Mutex
	count int
	grown chan struct{}
}

// add makes the log longer and returns its new length.
func (l *log) add(count int) int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.count += count
	return l.count
}

// announce wakes all goroutines that wait in after.
func (l *log) announce() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	close(l.grown)
	l.grown = make(chan struct{})
}

// state returns the length of the log, and a channel that is closed when the log grows.
func (l *log) state() (int, <-chan struct{}) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.count, l.grown
}

// snapshots replays the log to a new subscriber; later events come by publishing. A client that subscribes exactly
// while an event is published may get that event twice. Clients that count must avoid this: they publish only while they
// are connected, or only while they are not.
type snapshots struct{ log *log }

func (s snapshots) Replay(_, id string) chan eventsource.Event {
	count, _ := s.log.state()
	out := make(chan eventsource.Event, max(count-number(id), 0))
	for n := number(id) + 1; n <= count; n++ {
		out <- event(n)
	}
	close(out)
	return out
}

// followers replays the log and then sends added events, until the subscriber is gone.
type followers struct{ log *log }

func (f followers) Replay(_, id string) chan eventsource.Event {
	out := make(chan eventsource.Event)
	go func() {
		for n := number(id) + 1; ; n++ {
			for count, grown := f.log.state(); n > count; count, grown = f.log.state() {
				<-grown
			}
			select {
			case out <- event(n):
			case <-time.After(time.Second):
				return
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	return out
}

// number parses an id. A missing or foreign id means the position before the first event.
func number(id string) int {
	n, _ := strconv.Atoi(id)
	return max(n, 0)
}

// requests records the requests.
type requests struct {
	mutex sync.Mutex
	seen  []*request
}

type request struct {
	Protocol    string `json:"protocol"`
	LastEventID string `json:"last_event_id"`
	Coding      string `json:"coding"`
}

func (r *requests) record(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, asked *http.Request) {
		seen := &request{Protocol: asked.Proto, LastEventID: asked.Header.Get("Last-Event-ID")}
		r.mutex.Lock()
		r.seen = append(r.seen, seen)
		r.mutex.Unlock()
		handler.ServeHTTP(&head{w, r, seen}, asked)
	})
}

func (r *requests) list(w http.ResponseWriter, _ *http.Request) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, seen := range r.seen {
		if err := json.NewEncoder(w).Encode(seen); err != nil {
			return
		}
	}
}

// head records the content coding of the response.
type head struct {
	http.ResponseWriter
	requests *requests
	seen     *request
}

func (h *head) WriteHeader(status int) {
	h.requests.mutex.Lock()
	h.seen.Coding = h.Header().Get("Content-Encoding")
	h.requests.mutex.Unlock()
	h.ResponseWriter.WriteHeader(status)
}

func (h *head) Flush() { h.ResponseWriter.(http.Flusher).Flush() }

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
