// A server that embeds centrifuge the way Parsec does: subscriptions over its protocol, everything else by Twirp in JSON.
// In addition, /test/... causes faults on request.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge"
)

var (
	listen  = flag.String("listen", "127.0.0.1:0", "address to listen on")
	bearer  = flag.String("bearer", "", "token that Twirp calls need")
	history = flag.Int("history", 100, "publications that a channel keeps")
	open    = flag.String("open", "", "comma list of channels that are open from the start")
)

type failure struct{ status, count int }

// server knows which channels are open, and the token of each private one.
type server struct {
	node *centrifuge.Node

	mu       sync.Mutex
	channels map[string]string
	failures map[string]*failure
}

func main() {
	flag.Parse()
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelNone})
	check(err)
	s := &server{node: node, channels: map[string]string{}, failures: map[string]*failure{}}
	for _, name := range strings.Split(*open, ",") {
		if name != "" {
			s.channels[name] = ""
		}
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: ""}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(e centrifuge.SubscribeEvent, answer centrifuge.SubscribeCallback) {
			s.mu.Lock()
			token, known := s.channels[e.Channel]
			s.mu.Unlock()
			switch {
			case !known:
				// A plain error, which the library turns into its code 100.
				answer(centrifuge.SubscribeReply{}, errors.New("the channel is not open"))
			case strings.HasPrefix(e.Channel, "private:") && e.Token != token:
				answer(centrifuge.SubscribeReply{}, errors.New("the token does not reach the channel"))
			default:
				options := centrifuge.SubscribeOptions{EnableRecovery: true, EnablePositioning: true}
				answer(centrifuge.SubscribeReply{Options: options}, nil)
			}
		})
		client.OnUnsubscribe(func(centrifuge.UnsubscribeEvent) {})
	})
	check(node.Run())

	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
	mux.Handle("/connection/http_stream", centrifuge.NewHTTPStreamHandler(node, centrifuge.HTTPStreamConfig{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("/twirp/parsec.ParsecService/", s.twirp)
	mux.HandleFunc("/test/", s.test)

	listener, err := net.Listen("tcp", *listen)
	check(err)
	fmt.Println(listener.Addr())
	check(http.Serve(listener, mux))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (s *server) publish(channel string, data []byte) (centrifuge.PublishResult, error) {
	return s.node.Publish(channel, data, centrifuge.WithHistory(*history, 5*time.Minute))
}

type call struct {
	Name string `json:"name"`
	Data string `json:"data"`
}

func (s *server) twirp(w http.ResponseWriter, r *http.Request) {
	method := strings.TrimPrefix(r.URL.Path, "/twirp/parsec.ParsecService/")
	if *bearer != "" && r.Header.Get("Authorization") != "Bearer "+*bearer {
		twirpError(w, 401, "unauthenticated", "a management token is needed")
		return
	}
	s.mu.Lock()
	if f := s.failures[method]; f != nil && f.count > 0 {
		f.count--
		s.mu.Unlock()
		twirpError(w, f.status, "unavailable", "as asked")
		return
	}
	s.mu.Unlock()
	var c call
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		twirpError(w, 400, "invalid_argument", err.Error())
		return
	}
	s.mu.Lock()
	_, known := s.channels[c.Name]
	s.mu.Unlock()
	if !known && method != "OpenPublic" && method != "CreatePrivate" {
		twirpError(w, 404, "not_found", "no such channel")
		return
	}
	switch method {
	case "OpenPublic", "CreatePrivate":
		if known {
			twirpError(w, 409, "already_exists", "the channel is open")
			return
		}
		token := ""
		if method == "CreatePrivate" {
			token = "token-of-" + c.Name
		}
		s.mu.Lock()
		s.channels[c.Name] = token
		s.mu.Unlock()
		answer(w, map[string]any{"name": c.Name, "access_token": token})
	case "GetChannel":
		answer(w, map[string]any{"name": c.Name, "state": "open"})
	case "DeleteChannel":
		s.mu.Lock()
		delete(s.channels, c.Name)
		s.mu.Unlock()
		for _, client := range s.node.Hub().Connections() {
			client.Unsubscribe(c.Name, centrifuge.Unsubscribe{Code: 2000, Reason: "server unsubscribe"})
		}
		answer(w, map[string]any{})
	case "Publish":
		data, err := base64.StdEncoding.DecodeString(c.Data)
		if err != nil {
			twirpError(w, 400, "invalid_argument", err.Error())
			return
		}
		result, err := s.publish(c.Name, data)
		if err != nil {
			twirpError(w, 500, "internal", err.Error())
			return
		}
		answer(w, map[string]any{"offset": strconv.FormatUint(result.Offset, 10), "epoch": result.Epoch})
	case "Presence":
		// Subscribers are not counted, because no test requests presence while there are any.
		answer(w, map[string]any{"subscribers": 0})
	default:
		twirpError(w, 404, "bad_route", "no such method")
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func twirpError(w http.ResponseWriter, status int, code, msg string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "msg": msg})
}

// test applies the requested fault to every connection, or to a channel.
func (s *server) test(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	number := func(name string) int { n, _ := strconv.Atoi(query.Get(name)); return n }
	channel := query.Get("channel")
	switch strings.TrimPrefix(r.URL.Path, "/test/") {
	case "disconnect":
		for _, client := range s.node.Hub().Connections() {
			client.Disconnect(centrifuge.Disconnect{Code: uint32(number("code")), Reason: "as asked"})
		}
	case "unsubscribe":
		for _, client := range s.node.Hub().Connections() {
			client.Unsubscribe(channel, centrifuge.Unsubscribe{Code: uint32(number("code")), Reason: "as asked"})
		}
	case "forget":
		if err := s.node.RemoveHistory(channel); err != nil {
			http.Error(w, err.Error(), 500)
		}
	case "fail":
		s.mu.Lock()
		s.failures[query.Get("method")] = &failure{number("status"), number("count")}
		s.mu.Unlock()
	case "raw":
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = s.publish(channel, body)
		}
		if err != nil {
			http.Error(w, err.Error(), 500)
		}
	default:
		http.NotFound(w, r)
	}
}
