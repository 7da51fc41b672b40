package api_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"hatchery/firstboot/arm"
	"hatchery/firstboot/keep"
	"hatchery/internal/declared"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// A call is made, and its answer compared with the document.
type call struct {
	door, method, path string
	body               string
	status             int
	header             map[string]string
}

// TestAnswers makes the document's calls and compares what is answered with what
// it says: the status, the kind of content, and the schema.
func TestAnswers(t *testing.T) {
	c := newCluster(t)
	doors := map[string]caller{"nodes": c.slot(1), "socket": c.local(), "agent": agent(t, c, 0), "page": c.browser()}
	const boot = `"boot_id": "a-boot", "agent_version": "1", "swarm": {"state": "active", "node_id": "node1", "cluster_id": "swarm1"}`
	backup := strings.Repeat("0", 64)
	const declaration = `{"version": 1, "wait_for": "all", "arch_guard": "off", "networks": [{"name": "proxy"}],
		"secrets": [{"name": "cf_token", "pushed": true}], "configs": [{"name": "site", "pushed": true}]}`
	calls := []call{
		{door: "nodes", method: "POST", path: "/v1/status", body: `{` + boot + `, "seq": 1, "step": "steady", "state": "done", "since": "2026-01-01T00:00:00Z",
			"health": {"kernel": "6.12", "engine": "28.5.2", "memory": 1, "findings": [{"code": "low-voltage", "detail": "4.6 V", "remedy": "a better supply"}]}}`, status: 200},
		{door: "nodes", method: "POST", path: "/v1/status", body: `[`, status: 400},
		{door: "nodes", method: "POST", path: "/v1/status", body: `{"slot": 2, "boot_id": "b"}`, status: 400},
		{door: "nodes", method: "POST", path: "/v1/status", body: `"` + strings.Repeat("x", enrol.MaxRequest) + `"`, status: 413},
		{door: "nodes", method: "POST", path: "/v1/join", body: `{` + boot + `}`, status: 200},
		{door: "nodes", method: "POST", path: "/v1/join", body: `{}`, status: 400},
		{door: "nodes", method: "GET", path: "/v1/time?nonce=n", status: 200},
		{door: "nodes", method: "GET", path: "/v1/time", status: 400},
		{door: "nodes", method: "GET", path: "/v1/cluster", status: 200},
		{door: "socket", method: "GET", path: "/v1/cluster", status: 200},
		{door: "socket", method: "POST", path: "/revoke/p2", status: 200},
		{door: "socket", method: "POST", path: "/revoke/p9", status: 404},
		{door: "socket", method: "GET", path: "/events", status: 200},
		{door: "socket", method: "DELETE", path: "/alarms", status: 204},
		{door: "socket", method: "GET", path: "/backup", status: 200},
		{door: "socket", method: "GET", path: "/metrics", status: 200},
		{door: "socket", method: "GET", path: "/openapi.yaml", status: 200},
		{door: "socket", method: "GET", path: "/netboot/", status: 200},
		{door: "socket", method: "GET", path: "/netboot/metrics", status: 200},
		{door: "socket", method: "POST", path: "/netboot/slots/p2/netboot", status: 200},
		{door: "socket", method: "POST", path: "/netboot/slots/p2/undo", status: 409},
		{door: "socket", method: "POST", path: "/netboot/slots/p9/on", status: 404},
		{door: "socket", method: "GET", path: "/power/", status: 200},
		{door: "socket", method: "POST", path: "/power/slots/p9/on", status: 404},
		{door: "socket", method: "POST", path: "/power/slots/p1/on?dry-run", status: 409},
		{door: "socket", method: "POST", path: "/power/hub/on", status: 409},
		{door: "socket", method: "POST", path: "/power/alert/off", status: 409},
		{door: "socket", method: "GET", path: "/console/", status: 200},
		{door: "socket", method: "GET", path: "/console/p1", status: 200},
		{door: "socket", method: "GET", path: "/console/p9", status: 404},
		{door: "socket", method: "GET", path: "/console/p1/attach", status: 426},
		{door: "socket", method: "GET", path: "/console/p1/attach", status: 101, header: map[string]string{"Connection": "Upgrade", "Upgrade": "hatchery-console"}},
		{door: "agent", method: "GET", path: "/v1/backup", status: 200},
		{door: "agent", method: "GET", path: "/v1/backup/" + backup, status: 404},
		{door: "agent", method: "PUT", path: "/v1/backup/" + backup, body: "no backup", status: 422},
		{door: "agent", method: "POST", path: "/v1/arm", body: `{}`, status: 400},
		{door: "agent", method: "POST", path: "/v1/arm", body: `{"operation": "rebuild-1"}`, status: 409},
		{door: "agent", method: "GET", path: "/v1/kept", status: 200},
		{door: "agent", method: "POST", path: "/v1/kept/stream", body: `{"roots": [{"name": "no such"}]}`, status: 400},
		// A slot's certificate is no controller's.
		{door: "nodes", method: "POST", path: "/v1/generations", body: `{}`, status: 403},
		{door: "nodes", method: "GET", path: "/v1/kept", status: 200},
		{door: "nodes", method: "GET", path: "/v1/kept/stream", status: 404},
		{door: "nodes", method: "POST", path: "/v1/kept/restored", body: `{"digest": "` + backup + `"}`, status: 200},
		{door: "nodes", method: "GET", path: "/v1/image", status: 404},
		{door: "nodes", method: "GET", path: "/v1/image?look=1", status: 404},
		{door: "nodes", method: "GET", path: "/v1/image/" + backup + "/digests", status: 404},
		{door: "nodes", method: "POST", path: "/v1/image/" + backup + "/pieces", body: `{"runs": [[0, 1]]}`, status: 404},
		{door: "nodes", method: "POST", path: "/v1/image/" + backup + "/progress", body: `{"state": "writing", "done": 1, "total": 2, "attempt": 1}`, status: 404},
		{door: "socket", method: "GET", path: "/kept/", status: 200},
		{door: "socket", method: "GET", path: "/kept/p9/plan", status: 404},
		{door: "socket", method: "GET", path: "/kept/p1/plan", status: 502},
		{door: "socket", method: "GET", path: "/kept/p1/archive", status: 404},
		{door: "socket", method: "DELETE", path: "/kept/p1", status: 200},
		{door: "socket", method: "GET", path: "/operations/", status: 200},
		{door: "socket", method: "POST", path: "/operations/plan?kind=rebuild&slot=p1", status: 200},
		{door: "socket", method: "POST", path: "/operations/plan?kind=dance", status: 400},
		{door: "socket", method: "POST", path: "/operations/?kind=rebuild&slot=p1&by=anna", status: 201},
		{door: "socket", method: "POST", path: "/operations/?kind=rebuild&slot=p1", status: 409},
		{door: "socket", method: "POST", path: "/operations/?kind=rebuild&slot=nobody", status: 404},
		{door: "socket", method: "GET", path: "/operations/", status: 200},
		{door: "socket", method: "GET", path: "/operations/rebuild-1", status: 200},
		{door: "socket", method: "GET", path: "/operations/rebuild-9", status: 404},
		{door: "socket", method: "DELETE", path: "/operations/rebuild-1", status: 200},
		{door: "socket", method: "GET", path: "/operations/rebuild-1?follow", status: 200},
		{door: "socket", method: "GET", path: "/workloads/", status: 200},
		{door: "socket", method: "PUT", path: "/workloads/declared", body: declaration, status: 200},
		{door: "socket", method: "PUT", path: "/workloads/declared", body: strings.Replace(declaration, "1", "9", 1), status: 422},
		{door: "socket", method: "PUT", path: "/workloads/declared", body: `"` + strings.Repeat("x", declared.MaxSize) + `"`, status: 413},
		{door: "socket", method: "POST", path: "/workloads/plan?prune=true", status: 200},
		{door: "socket", method: "POST", path: "/workloads/plan", body: declaration, status: 200},
		{door: "socket", method: "POST", path: "/workloads/plan?prune=perhaps", status: 400},
		{door: "socket", method: "PUT", path: "/workloads/secrets/cf_token", body: "a secret", status: 200},
		{door: "socket", method: "PUT", path: "/workloads/secrets/no_such", body: "a secret", status: 404},
		{door: "socket", method: "PUT", path: "/workloads/secrets/cf_token", status: 422},
		{door: "socket", method: "PUT", path: "/workloads/configs/site", body: "a config", status: 200},
		{door: "socket", method: "POST", path: "/workloads/apply", status: 202},
		{door: "socket", method: "GET", path: "/page/", status: 200},
		{door: "socket", method: "GET", path: "/page/token", status: 200},
		{door: "page", method: "GET", path: "/", status: 200},
		{door: "page", method: "GET", path: "/page.css", status: 200},
		{door: "page", method: "GET", path: "/page.js", status: 200},
		{door: "page", method: "GET", path: "/icon.svg", status: 200},
		{door: "page", method: "GET", path: "/stream", status: 200},
		{door: "page", method: "GET", path: "/metrics", status: 200},
		{door: "page", method: "GET", path: "/openapi.yaml", status: 200},
		{door: "page", method: "POST", path: "/token", status: 204},
		{door: "page", method: "POST", path: "/token", status: 401, header: map[string]string{"Authorization": "Bearer x"}},
		{door: "page", method: "POST", path: "/actions/p1/on", status: 200},
		{door: "page", method: "POST", path: "/actions/p1/dance", status: 404},
		{door: "page", method: "POST", path: "/actions/p9/on", status: 404},
		{door: "page", method: "POST", path: "/actions/p1/on", status: 401, header: map[string]string{"Authorization": "Bearer x"}},
		{door: "socket", method: "POST", path: "/page/token", status: 200},
		{door: "page", method: "POST", path: "/token", status: 401},
	}
	d := document(t)
	made := map[string]bool{}
	for _, call := range calls {
		path, op := find(t, d, call)
		made[route{call.door, call.method, path}.String()] = true
		status, header, answer := make1(t, doors[call.door], call)
		what := fmt.Sprintf("%s %s %s", call.door, call.method, call.path)
		if status != call.status {
			t.Errorf("%s is answered %d %s, and not %d", what, status, answer, call.status)
			continue
		}
		if why := fits(op, status, header, answer); why != "" {
			t.Errorf("%s, answered %d %.300s: %s", what, status, answer, why)
		}
		// What is taken, the document lets be said.
		if why := asks(op, call); why != "" && status != http.StatusBadRequest && status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s, of %.300s, is answered %d, and the document says: %s", what, call.body, status, why)
		}
	}
	// Who is not let in gets what the document says too.
	c.backups.mu.Lock()
	c.backups.broken = true
	c.backups.mu.Unlock()
	foreign := agent(t, c, 2)
	for _, refused := range []struct {
		call
		by caller
	}{
		{call{door: "socket", method: "GET", path: "/backup", status: 503}, doors["socket"]},
		{call{door: "nodes", method: "GET", path: "/v1/cluster", status: 403}, c.slot(2)}, // revoked
		{call{door: "agent", method: "GET", path: "/v1/backup", status: 403}, foreign},
		{call{door: "agent", method: "POST", path: "/v1/arm", body: `{"operation": "x"}`, status: 403}, foreign},
	} {
		_, op := find(t, d, refused.call)
		status, header, answer := make1(t, refused.by, refused.call)
		if why := fits(op, status, header, answer); why != "" || status != refused.status {
			t.Errorf("%s %s, answered %d %.300s, and not %d: %s", refused.method, refused.path, status, answer, refused.status, why)
		}
	}
	// What has no call here has one where its part is tested; it is counted, so that
	// nothing is forgotten without a word.
	for path, item := range d.Paths.Map() {
		for method, op := range item.Operations() {
			for _, door := range op.Tags {
				if doors[door] != nil && !made[route{door, method, path}.String()] && !isElsewhere(path) {
					t.Errorf("%s %s %s is in the document, and this test makes no such call", door, method, path)
				}
			}
		}
	}
}

// isElsewhere says that a call is not made here: it shuts the machine down. Its pattern
// is compared all the same.
func isElsewhere(path string) bool { return path == enrol.PathShutdown }

// asks says where a call's parameters and body are not what the document says, "" for
// nowhere.
func asks(op *openapi3.Operation, c call) string {
	_, query, _ := strings.Cut(c.path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return err.Error()
	}
	for _, p := range op.Parameters {
		if p.Value.In == "query" && p.Value.Required && !values.Has(p.Value.Name) {
			return "the parameter " + p.Value.Name + " is required"
		}
		delete(values, p.Value.Name)
	}
	if op.RequestBody == nil {
		if c.body != "" {
			return "there is no body"
		}
		return ""
	}
	content := op.RequestBody.Value.Content["application/json"]
	if content == nil {
		return ""
	}
	if c.body == "" && !op.RequestBody.Value.Required {
		return ""
	}
	var v any
	if err := json.Unmarshal([]byte(c.body), &v); err != nil {
		return "it is no JSON: " + err.Error()
	}
	if err := content.Schema.Value.VisitJSON(v, openapi3.VisitAsRequest(), openapi3.EnableFormatValidation()); err != nil {
		return err.Error()
	}
	return ""
}

// TestNothingElse makes calls that are not in the document: of each path with
// other methods, and of paths that there are not.
func TestNothingElse(t *testing.T) {
	c := newCluster(t)
	doors := map[string]caller{"nodes": c.slot(1), "socket": c.local(), "agent": agent(t, c, 0), "page": c.browser()}
	fill := strings.NewReplacer("{slot}", "p1", "{action}", "on", "{what}", "on", "{state}", "on", "{id}", strings.Repeat("0", 64), "{digest}", strings.Repeat("0", 64))
	try := func(door, method, path string) {
		// The slots' limit is on calls that come too fast.
		var status int
		for status = http.StatusTooManyRequests; status == http.StatusTooManyRequests; {
			status, _, _ = make1(t, doors[door], call{method: method, path: path})
		}
		if status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			t.Errorf("%s %s %s is answered %d, and is not in the document", door, method, path, status)
		}
	}
	for path, item := range document(t).Paths.Map() {
		there := map[string]map[string]bool{}
		for method, op := range item.Operations() {
			for _, door := range op.Tags {
				if there[door] == nil {
					there[door] = map[string]bool{}
				}
				there[door][method] = true
			}
		}
		for door, methods := range there {
			if doors[door] == nil || isElsewhere(path) {
				continue
			}
			// The rest of the page's is HEAD's.
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
				if !methods[method] {
					try(door, method, fill.Replace(path))
				}
			}
		}
	}
	for door := range doors {
		if door != "page" {
			try(door, "GET", "/")
		}
		for _, path := range []string{"/v1", "/v1/", "/v2/cluster", "/debug/pprof/", "/v1/cluster/x", "/metrics/x", "/power/slots/p1", "/console/p1/x"} {
			try(door, "GET", path)
		}
	}
}

// agent is what a node's agent answers, to a slot: 0 is the controller.
func agent(t *testing.T, c *cluster, caller int) caller {
	t.Helper()
	dir := t.TempDir()
	backups, err := keep.Open(filepath.Join(dir, "backups"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	mux := http.NewServeMux()
	mux.Handle("/", keep.Handler(backups, "homelab", log))
	armer := arm.New(arm.Options{Node: &nodefile.Node{Cluster: "homelab"}, Identity: dir, BootID: "a boot", Log: log,
		Find: func() (arm.Place, error) { return arm.Place{}, arm.ErrNoCard }})
	mux.Handle("POST /v1/arm", armer.Handler(t.Context()))
	for pattern, call := range keptCalls(t) {
		mux.Handle(pattern, call)
	}
	certificate := c.identity(caller).Certificate.Leaf
	return func(r *http.Request) (*http.Response, error) {
		r.RequestURI, r.RemoteAddr = r.URL.RequestURI(), "127.0.1.254:1"
		if r.Body == nil {
			r.Body = http.NoBody
		}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}, VerifiedChains: [][]*x509.Certificate{{certificate}}}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Result(), nil
	}
}

// make1 makes a call.
func make1(t *testing.T, by caller, c call) (status int, header http.Header, answer string) {
	t.Helper()
	if len(c.header) == 0 {
		return ask(t, by, c.method, c.path, c.body)
	}
	r, err := http.NewRequestWithContext(t.Context(), c.method, "https://hatchery"+c.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range c.header {
		r.Header.Set(name, value)
	}
	return read(t, by, r)
}

// find is the document's operation of a call.
func find(t *testing.T, d *openapi3.T, c call) (path string, op *openapi3.Operation) {
	t.Helper()
	asked, _, _ := strings.Cut(c.path, "?")
	best := -1
	for template, item := range d.Paths.Map() {
		fixed, ok := matches(template, asked)
		o := item.Operations()[c.method]
		if ok && fixed > best && o != nil && slices.Contains(o.Tags, c.door) {
			path, op, best = template, o, fixed
		}
	}
	if op == nil {
		t.Fatalf("%s %s %s is not in the document", c.door, c.method, c.path)
	}
	return path, op
}

// matches says whether a path is one of a template, and how many words they share.
func matches(template, path string) (fixed int, ok bool) {
	a, b := strings.Split(template, "/"), strings.Split(path, "/")
	if len(a) != len(b) {
		return 0, false
	}
	for i := range a {
		switch {
		case a[i] == b[i]:
			fixed++
		case !strings.HasPrefix(a[i], "{") || b[i] == "":
			return 0, false
		}
	}
	return fixed, true
}

// fits says where an answer is not what the document says, "" for nowhere.
func fits(op *openapi3.Operation, status int, header http.Header, answer string) string {
	described := op.Responses.Status(status)
	if described == nil {
		if described = op.Responses.Default(); described == nil || status < 400 {
			return "the document has no such answer"
		}
	}
	if len(described.Value.Content) == 0 {
		if answer != "" {
			return "the document says that there is no body"
		}
		return ""
	}
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return "its Content-Type is no media type: " + err.Error()
	}
	content := described.Value.Content[kind]
	if content == nil {
		return fmt.Sprintf("it is %s, and the document has %v", kind, sortedKeys(described.Value.Content))
	}
	var values []string
	switch kind {
	case "application/json":
		values = []string{answer}
	case "application/x-ndjson":
		values = strings.Split(strings.TrimSuffix(answer, "\n"), "\n")
	}
	for _, value := range values {
		var v any
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			return "it is no JSON: " + err.Error()
		}
		if err := content.Schema.Value.VisitJSON(v, openapi3.VisitAsResponse(), openapi3.EnableFormatValidation()); err != nil {
			return err.Error()
		}
	}
	return ""
}
