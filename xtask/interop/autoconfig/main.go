// Command autoconfig-peer is either end of an auto-configuration stream, made with github.com/launchdarkly/eventsource,
// whose encoder is that of the real service and whose client is that of its proxies.
//
//	autoconfig-peer serve LISTEN KEY FILE   serves, with the content of FILE as data of the put of each subscriber
//	autoconfig-peer follow URL KEY          prints each event of a stream as a line of JSON: its name and its data
//
// The server prints its address as its first line, compresses for clients that accept it, and serves:
//
//	GET  /relay_auto_config    the stream, for clients with the key; others get 401
//	POST /publish?event=NAME   an event whose data is the body, to all subscribers
//	POST /comment              a comment
//	POST /close                ends the open streams
//	GET  /requests             one line of JSON for each request for the stream so far
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/launchdarkly/eventsource"
)

const channel = "configuration"

func main() {
	var err error
	switch {
	case len(os.Args) == 5 && os.Args[1] == "serve":
		err = serve(os.Args[2], os.Args[3], os.Args[4])
	case len(os.Args) == 4 && os.Args[1] == "follow":
		err = follow(os.Args[2], os.Args[3])
	default:
		err = fmt.Errorf("usage: autoconfig-peer serve LISTEN KEY FILE | follow URL KEY")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// event is an event without an id, as the service sends them.
type event struct{ name, data string }

func (e event) Id() string    { return "" }
func (e event) Event() string { return e.name }
func (e event) Data() string  { return e.data }

// everything is the first message for a new subscriber.
type everything struct{ file string }

func (e everything) Replay(_, _ string) chan eventsource.Event {
	out := make(chan eventsource.Event, 1)
	if data, err := os.ReadFile(e.file); err == nil {
		out <- event{"put", string(data)}
	}
	close(out)
	return out
}

// request is a request and the status of its response.
type request struct {
	Target        string `json:"target"`
	Authorization string `json:"authorization"`
	UserAgent     string `json:"user_agent"`
	LastEventID   string `json:"last_event_id"`
	Coding        string `json:"coding"`
}

func serve(listen, key, file string) error {
	stream := eventsource.NewServer()
	stream.ReplayAll, stream.Gzip = true, true
	stream.Register(channel, everything{file})
	var mutex sync.Mutex
	var requests []request
	events := stream.Handler(channel)

	http.HandleFunc("GET /relay_auto_config", func(w http.ResponseWriter, r *http.Request) {
		head := r.Header
		mutex.Lock()
		requests = append(requests, request{
			r.RequestURI, head.Get("Authorization"), head.Get("User-Agent"), head.Get("Last-Event-ID"), head.Get("Accept-Encoding"),
		})
		mutex.Unlock()
		if head.Get("Authorization") != key {
			http.Error(w, "not with "+head.Get("Authorization"), http.StatusUnauthorized)
			return
		}
		events.ServeHTTP(w, r)
	})
	http.HandleFunc("POST /publish", func(_ http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err == nil {
			<-stream.PublishWithAcknowledgment([]string{channel}, event{r.FormValue("event"), string(data)})
		}
	})
	http.HandleFunc("POST /comment", func(http.ResponseWriter, *http.Request) {
		stream.PublishComment([]string{channel}, "")
	})
	http.HandleFunc("POST /close", func(http.ResponseWriter, *http.Request) {
		stream.Unregister(channel, true)
		stream.Register(channel, everything{file})
	})
	http.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) {
		mutex.Lock()
		defer mutex.Unlock()
		for _, seen := range requests {
			if json.NewEncoder(w).Encode(seen) != nil {
				return
			}
		}
	})
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, nil)
}

func follow(url, key string) error {
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", key)
	stream, err := eventsource.SubscribeWithRequestAndOptions(request,
		eventsource.StreamOptionInitialRetry(50*time.Millisecond),
		eventsource.StreamOptionUseBackoff(200*time.Millisecond),
		eventsource.StreamOptionCanRetryFirstConnection(-1),
		eventsource.StreamOptionReadTimeout(5*time.Minute),
		eventsource.StreamOptionErrorHandler(func(err error) eventsource.StreamErrorHandlerResult {
			fmt.Fprintln(os.Stderr, err)
			return eventsource.StreamErrorHandlerResult{}
		}))
	if err != nil {
		return err
	}
	lines := json.NewEncoder(os.Stdout)
	for e := range stream.Events {
		if err := lines.Encode(map[string]string{"event": e.Event(), "data": e.Data()}); err != nil {
			return err
		}
	}
	return nil
}
