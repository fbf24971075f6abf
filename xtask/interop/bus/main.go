// Command bus-2018 is a bus of 2018, for tests: receiver and dispatcher are those of github.com/knative/eventing v0.2.1,
// combined as in its stub bus.
//
// Usage: bus-2018 SUBSCRIPTIONS.json, where the file holds {"NAMESPACE/CHANNEL": [{"subscriber": "..", "reply": ".."}]}.
// Its first line of output is the address. The package provisioners is copied from the module before the build.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"go.uber.org/zap"

	"relay/xtask/interop/bus/provisioners"
)

type subscription struct {
	Subscriber string `json:"subscriber"`
	Reply      string `json:"reply"`
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	channels := map[string][]subscription{}
	if err := json.Unmarshal(text, &channels); err != nil {
		log.Fatal(err)
	}
	quiet := zap.NewNop().Sugar()
	dispatcher := provisioners.NewMessageDispatcher(quiet)
	receive := func(channel provisioners.ChannelReference, message *provisioners.Message) error {
		subscriptions, known := channels[channel.String()]
		if !known {
			return provisioners.ErrUnknownChannel
		}
		for _, to := range subscriptions {
			defaults := provisioners.DispatchDefaults{Namespace: channel.Namespace}
			go func() {
				if err := dispatcher.DispatchMessage(message, to.Subscriber, to.Reply, defaults); err != nil {
					log.Print(err)
				}
			}()
		}
		return nil
	}
	receiver := provisioners.NewMessageReceiver(receive, quiet)
	// The package's own server listens on a fixed port of all interfaces. This one does the same before its handler.
	handler := func(answer http.ResponseWriter, request *http.Request) {
		switch {
		case request.URL.Path != "/":
			answer.WriteHeader(http.StatusNotFound)
		case request.Method != http.MethodPost:
			answer.WriteHeader(http.StatusMethodNotAllowed)
		default:
			receiver.HandleRequest(answer, request)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(handler)))
}
