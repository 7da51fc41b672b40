package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hatchery/internal/enrol"
)

//go:embed static
var static embed.FS

// The page's paths.
const (
	PathPage    = "/"
	PathStyle   = "/page.css"
	PathScript  = "/page.js"
	PathIcon    = "/icon.svg"
	PathStream  = "/stream"   // server-sent events: GET
	PathToken   = "/token"    // is this the token? POST
	PathActions = "/actions/" // POST /actions/p2/cycle

	// What programs look at: Prometheus' metrics, and the calls' description.
	PathMetrics  = "/metrics"
	PathDocument = "/openapi.yaml"
	pathAction   = PathActions + "{slot}/{action}" // as http.ServeMux has it
)

// policy lets the page load its own three files and nothing else, and nobody
// frame it (Content Security Policy Level 3). No script is made of text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// headers are those of every answer.
var headers = map[string]string{
	"Content-Security-Policy":      policy,
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "no-referrer",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), usb=()",
}

// A file of the page, with what it is called by caches.
type file struct {
	content []byte
	kind    string
	tag     string
}

func readFile(name, kind string) (file, error) {
	content, err := static.ReadFile("static/" + name)
	if err != nil {
		return file{}, err
	}
	sum := sha256.Sum256(content)
	return file{content, kind, `"` + hex.EncodeToString(sum[:12]) + `"`}, nil
}

func (f file) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "no-cache") // asked for each time, and sent when it changed
	h.Set("ETag", f.tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

// handler is what is answered on every address.
func (s *Service) handler() (http.Handler, error) {
	mux := http.NewServeMux()
	for path, f := range map[string][2]string{
		PathStyle:  {"page.css", "text/css; charset=utf-8"},
		PathScript: {"page.js", "text/javascript; charset=utf-8"},
		PathIcon:   {"icon.svg", "image/svg+xml"},
	} {
		content, err := readFile(f[0], f[1])
		if err != nil {
			return nil, err
		}
		mux.Handle("GET "+path, content)
	}
	page, err := template.New("page.html").Funcs(templateFuncs).ParseFS(static, "static/page.html")
	if err != nil {
		return nil, err
	}
	mux.HandleFunc("GET "+PathPage+"{$}", func(w http.ResponseWriter, r *http.Request) { s.pageCall(w, r, page) })
	mux.HandleFunc("GET "+PathStream, s.streamCall)
	if s.Metrics != nil {
		mux.Handle("GET "+PathMetrics, s.Metrics)
	}
	if s.Document != nil {
		mux.Handle("GET "+PathDocument, s.Document)
	}
	mux.HandleFunc("POST "+PathToken, s.tokenCall)
	mux.HandleFunc("POST "+pathAction, s.actionCall)
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, &enrol.Error{Status: http.StatusForbidden, Code: Foreign, Detail: "this is another page's request"})
	}))
	inner := sameOrigin.Handler(mux)
	names := s.names()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		if !isOurs(r.Host, names) {
			refuse(w, &enrol.Error{Status: http.StatusMisdirectedRequest, Code: BadHost, Detail: "this is the page of " + s.Node.Hostname + ", by another name"})
			return
		}
		inner.ServeHTTP(w, r)
	}), nil
}

// isOurs says whether a request is for this page: by an address, which nobody can
// point elsewhere, or by one of the controller's names.
func isOurs(host string, names []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return slices.Contains(names, host)
}

// templateFuncs are what the template calls.
var templateFuncs = template.FuncMap{
	"age": func(now time.Time, t any) string {
		switch t := t.(type) {
		case time.Time:
			return age(now, &t)
		case *time.Time:
			return age(now, t)
		}
		return ""
	},
	"stamp": func(t any) string {
		switch t := t.(type) {
		case time.Time:
			return t.UTC().Format(time.RFC3339Nano)
		case *time.Time:
			return t.UTC().Format(time.RFC3339Nano)
		}
		return ""
	},
	"fact": func(s shown, of string, f Fact) shownFact {
		return shownFact{Fact: f, Of: of, Now: s.Now}
	},
}

// A shownFact is a fact of something, as the template has it.
type shownFact struct {
	Fact
	Of  string // p2, cluster
	Now time.Time
}

// Empty says whether there is nothing to show.
func (f shownFact) Empty() bool { return f.Text == "" && f.Time == nil }

// Done is how many percent are done.
func (f shownFact) Done() int {
	if f.Percent == nil {
		return 0
	}
	return *f.Percent
}

// shown is what the template is rendered over.
type shown struct {
	State
	Actions []offer
	MayAct  bool
	Remedy  string // how to get where actions are done
}

// Latest are the events, the latest first.
func (s shown) Latest() []Event {
	events := slices.Clone(s.Events)
	slices.Reverse(events)
	return events
}

func (s *Service) pageCall(w http.ResponseWriter, r *http.Request, page *template.Template) {
	s.refresh(r.Context(), s.Times.Poll)
	state, _ := s.board.look()
	var b bytes.Buffer
	err := page.Execute(&b, shown{
		State: state, Actions: s.offered, MayAct: mayAct(r) && len(s.offered) > 0,
		Remedy: "hatchery page --on " + s.Node.Hostname,
	})
	if err != nil {
		s.Log.Error("the page cannot be made", "error", err)
		refuse(w, &enrol.Error{Status: http.StatusInternalServerError, Code: Failed, Detail: "the page cannot be made"})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", fmt.Sprint(b.Len()))
	_, _ = w.Write(b.Bytes()) // who has gone needs no page
}
