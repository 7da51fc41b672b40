package page

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strconv"

	"hatchery/internal/enrol"
)

// Prefix is where the command line's calls are on the service's socket.
const Prefix = "/page/"

// A View is where the page is had.
type View struct {
	Loopback string   `json:"loopback"`      // on the controller itself: look, and act with the token
	Inner    string   `json:"inner"`         // on the slots' network: look
	LAN      []string `json:"lan,omitempty"` // on all networks: look, and act with the token
	Trouble  string   `json:"trouble,omitempty"`
	Actions  []string `json:"actions"` // what can be done with a slot
}

// A TokenAnswer is the operator's token, for root alone.
type TokenAnswer struct {
	Token string `json:"token"`
}

// Calls answers the command line, under Prefix:
//
//	GET  …        the View
//	GET  …token   the TokenAnswer
//	POST …token   another token; the old one opens nothing any more
func (s *Service) Calls() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"{$}", func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, s.view())
	})
	mux.HandleFunc("GET "+Prefix+"token", func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteJSON(w, http.StatusOK, TokenAnswer{string(s.token.get())})
	})
	mux.HandleFunc("POST "+Prefix+"token", func(w http.ResponseWriter, _ *http.Request) {
		token, err := s.token.renew()
		if err != nil {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusInternalServerError, Code: enrol.BadRequest, Detail: err.Error()})
			return
		}
		enrol.WriteJSON(w, http.StatusOK, TokenAnswer{string(token)})
	})
	mux.HandleFunc(Prefix, func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.BadRequest, Detail: "there is no such call"})
	})
	return mux
}

func (s *Service) view() *View {
	v := &View{
		Loopback: "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(Port)) + "/",
		Inner:    "http://" + net.JoinHostPort(s.Node.ControllerAddr.String(), strconv.Itoa(Port)) + "/",
		Actions:  []string{},
	}
	for _, a := range s.offered {
		v.Actions = append(v.Actions, a.Name)
	}
	if !s.lan() {
		return v
	}
	if s.noTLS != nil {
		v.Trouble = s.noTLS.Error()
		return v
	}
	names := slices.DeleteFunc(s.names(), func(name string) bool { return name == "localhost" || name == s.Node.Name && name != s.Node.Hostname })
	for _, name := range names {
		v.LAN = append(v.LAN, "https://"+net.JoinHostPort(name, strconv.Itoa(PortTLS))+"/")
	}
	return v
}

// A Caller makes calls on the service's socket; *controller.Client is one.
type Caller interface {
	// Call makes a call and reads its answer into v, unless v is nil.
	Call(ctx context.Context, method, path string, v any) error
}

// A Client is the command line's end of the calls.
type Client struct{ Caller Caller }

// View is where the page is had.
func (c Client) View(ctx context.Context) (*View, error) {
	v := new(View)
	return v, c.Caller.Call(ctx, http.MethodGet, Prefix, v)
}

// Token is what opens the page's actions.
func (c Client) Token(ctx context.Context) (string, error) {
	var answer TokenAnswer
	err := c.Caller.Call(ctx, http.MethodGet, Prefix+"token", &answer)
	return answer.Token, err
}

// NewToken has another token made: the old one opens nothing any more.
func (c Client) NewToken(ctx context.Context) (string, error) {
	var answer TokenAnswer
	err := c.Caller.Call(ctx, http.MethodPost, Prefix+"token", &answer)
	return answer.Token, err
}
