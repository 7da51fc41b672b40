package keep_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"hatchery/firstboot/keep"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/sealed"
	"hatchery/internal/swarmbackup"
	"hatchery/internal/swarmbackup/backuptest"
)

type cluster struct{ store *identity.Store }

func newCluster(t testing.TB, name string) cluster {
	t.Helper()
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), name)
	if err != nil {
		t.Fatal(err)
	}
	return cluster{store}
}

// slot is the identity of a slot, 0 for the controller.
func (c cluster) slot(t testing.TB, slot int) *enrol.Identity {
	t.Helper()
	name := "controller"
	if slot > 0 {
		name = clusterctrl.SlotName(slot)
	}
	files, err := c.store.Target(name, slot, "host"+name)
	if err != nil {
		t.Fatal(err)
	}
	id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// backup is a sealed file with its id.
func backup(t testing.TB, id *enrol.Identity, content string) (fileID string, data []byte) {
	t.Helper()
	return backupOf(t, id, "s", content)
}

// backupOf is one of a swarm.
func backupOf(t testing.TB, id *enrol.Identity, swarm, content string) (fileID string, data []byte) {
	t.Helper()
	var b bytes.Buffer
	w, err := sealed.NewWriter(&b, id.Key(), fmt.Appendf(nil, `{"format":1,"cluster":"homelab","swarm":%q,"index":1}`, swarm))
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:]), b.Bytes()
}

func open(t testing.TB, dir string) *keep.Store {
	t.Helper()
	s, err := keep.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ids are the kept ones, the latest first, shortened.
func ids(t testing.TB, s *keep.Store) string {
	t.Helper()
	l, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range l.Backups {
		all = append(all, e.ID[:6])
	}
	return strings.Join(all, " ")
}

func TestTheLatestTwoAreKept(t *testing.T) {
	dir := t.TempDir()
	id := newCluster(t, "homelab").slot(t, 0)
	s := open(t, dir)
	var names []string
	put := func(content []byte, fileID string, isNew bool) {
		t.Helper()
		got, err := s.Put(fileID, int64(len(content)), bytes.NewReader(content))
		if err != nil || got != isNew {
			t.Fatalf("new %v, %v, want %v", got, err, isNew)
		}
	}
	for i := range 4 {
		fileID, data := backup(t, id, fmt.Sprint("content ", i))
		put(data, fileID, true)
		names = append(names, fileID[:6])
		want := slices.Clone(names[max(0, i-1):])
		slices.Reverse(want)
		if got := ids(t, s); got != strings.Join(want, " ") {
			t.Fatalf("kept %q, want %q", got, want)
		}
		f, err := s.Get(fileID)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	// The older one again: it becomes the latest, also after a restart.
	l, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	put(nil, l.Backups[1].ID, false)
	put(nil, l.Backups[1].ID, false)
	s = open(t, dir)
	if got := ids(t, s); got != names[2]+" "+names[3] {
		t.Errorf("kept %q", got)
	}
	if _, err := s.Get(strings.Repeat("0", 64)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
}

// TestTheSwarmBefore: a controller that made a new swarm, because it was not
// answered in time, does not cost the old one by backing up the new.
func TestTheSwarmBefore(t *testing.T) {
	id := newCluster(t, "homelab").slot(t, 0)
	s := open(t, t.TempDir())
	names := map[string]string{}
	for _, name := range []string{"old 1", "old 2", "old 3", "new 1", "new 2", "new 3", "third 1"} {
		fileID, data := backupOf(t, id, strings.Fields(name)[0], name)
		if _, err := s.Put(fileID, int64(len(data)), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		names[fileID[:6]] = name
		var kept []string
		for _, id := range strings.Fields(ids(t, s)) {
			kept = append(kept, names[id])
		}
		want := map[string]string{
			"old 2": "old 2, old 1", "new 1": "new 1, old 3", "new 2": "new 2, new 1, old 3", "new 3": "new 3, new 2, old 3", "third 1": "third 1, new 3",
		}[name]
		if got := strings.Join(kept, ", "); want != "" && got != want {
			t.Errorf("after %s: kept %s, want %s", name, got, want)
		}
	}
}

func TestAfterAKill(t *testing.T) {
	dir := t.TempDir()
	id := newCluster(t, "homelab").slot(t, 0)
	s := open(t, dir)
	for i := range 2 {
		fileID, data := backup(t, id, fmt.Sprint(i))
		if _, err := s.Put(fileID, int64(len(data)), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	before := ids(t, s)
	// Killed while one was written, and between the third's rename and the first's removal.
	if err := os.WriteFile(filepath.Join(dir, ".x.1.hatchery-tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	third, data := backup(t, id, "third")
	if err := os.WriteFile(filepath.Join(dir, "0000000000000009-"+third+swarmbackup.Suffix), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lost+found"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if got, want := ids(t, s), third[:6]+" "+before[:6]; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("the folder has %v", entries)
	}
}

func TestWhatIsNotWholeIsNotKept(t *testing.T) {
	dir := t.TempDir()
	id := newCluster(t, "homelab").slot(t, 0)
	s := open(t, dir)
	first, data := backup(t, id, "first")
	if _, err := s.Put(first, int64(len(data)), bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	other, more := backup(t, id, "other")
	plain := []byte("no backup at all, but with the right digest")
	sum := sha256.Sum256(plain)
	broken := errors.New("the link broke")
	cases := []struct {
		summary string
		id      string
		size    int
		content io.Reader
		want    error
	}{
		{"short", other, len(more), bytes.NewReader(more[:len(more)-1]), keep.ErrNotIt},
		{"long", other, len(more) - 1, bytes.NewReader(more), keep.ErrNotIt},
		{"another's content", other, len(data), bytes.NewReader(data), keep.ErrNotIt},
		{"no backup", hex.EncodeToString(sum[:]), len(plain), bytes.NewReader(plain), keep.ErrNotIt},
		{"broken off", other, len(more), io.MultiReader(bytes.NewReader(more[:50]), iotest.ErrReader(broken)), broken},
	}
	for _, tc := range cases {
		if _, err := s.Put(tc.id, int64(tc.size), tc.content); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.summary, err, tc.want)
		}
		if got := ids(t, s); got != first[:6] {
			t.Errorf("%s: kept %q", tc.summary, got)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the folder has %v", entries)
	}
	// One that the card has damaged since is taken again.
	entries, _ := os.ReadDir(dir)
	if err := os.WriteFile(filepath.Join(dir, entries[0].Name()), data[:len(data)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	if isNew, err := s.Put(first, int64(len(data)), bytes.NewReader(data)); err != nil || !isNew {
		t.Errorf("new %v, %v", isNew, err)
	}
	f, err := s.Get(first)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAFullCard(t *testing.T) {
	id := newCluster(t, "homelab").slot(t, 0)
	cases := []struct {
		summary string
		free    func(kept int) int64 // by how many are kept
		want    error
		kept    string
	}{
		{"room", func(int) int64 { return keep.Reserve + 1<<20 }, nil, "c b"},
		{"room once the oldest is gone", func(kept int) int64 { return keep.Reserve + int64(2-kept)<<20 }, nil, "c b"},
		{"no room", func(int) int64 { return keep.Reserve }, keep.ErrNoRoom, "b"},
	}
	for _, tc := range cases {
		dir := t.TempDir()
		s := open(t, dir)
		names := make(map[string]string)
		put := func(name string) error {
			fileID, data := backup(t, id, name)
			names[fileID[:6]] = name
			_, err := s.Put(fileID, int64(len(data)), bytes.NewReader(data))
			return err
		}
		for _, name := range []string{"a", "b"} {
			if err := put(name); err != nil {
				t.Fatal(err)
			}
		}
		keep.SetFree(s, func(string) (int64, error) {
			entries, err := os.ReadDir(dir)
			return tc.free(len(entries)), err
		})
		if err := put("c"); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.summary, err, tc.want)
		}
		var got []string
		for _, id := range strings.Fields(ids(t, s)) {
			got = append(got, names[id])
		}
		if strings.Join(got, " ") != tc.kept {
			t.Errorf("%s: kept %q, want %q", tc.summary, got, tc.kept)
		}
	}
}

// serve serves a folder as a slot's node.
func serve(t testing.TB, id *enrol.Identity, dir string) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- keep.Serve(ctx, listener, open(t, dir), id, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return netip.MustParseAddrPort(listener.Addr().String())
}

// TestOverTheWire gives a backup to a node and gets it back, over real TLS.
func TestOverTheWire(t *testing.T) {
	c := newCluster(t, "homelab")
	controller := c.slot(t, 0)
	where := serve(t, c.slot(t, 2), t.TempDir())
	client := &swarmbackup.Client{Identity: controller, Port: where.Port()}
	node := swarmbackup.Node{Name: "p2", Slot: 2, Addr: where.Addr()}
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	dir := t.TempDir()
	var last string
	var lastID string
	for i := range 3 {
		f.Append(1000)
		last = filepath.Join(dir, fmt.Sprint(i))
		if _, err := swarmbackup.Take(t.Context(), last, swarmbackup.Source{Identity: controller, DockerRoot: f.DockerRoot}); err != nil {
			t.Fatal(err)
		}
		var err error
		if lastID, _, err = swarmbackup.FileID(last); err != nil {
			t.Fatal(err)
		}
		for range 2 { // twice is once
			if err := client.Put(t.Context(), node, lastID, last); err != nil {
				t.Fatal(err)
			}
		}
	}
	listing, err := client.List(t.Context(), node)
	if err != nil || len(listing.Backups) != swarmbackup.Kept {
		t.Fatalf("%+v, %v", listing, err)
	}
	fetched := filepath.Join(dir, "fetched")
	nodes := []swarmbackup.Node{
		{Name: "p1", Slot: 1, Addr: where.Addr()}, // shows p2's certificate: not p1
		node,
	}
	offer, survey, err := client.Newest(t.Context(), nodes, fetched)
	if err != nil {
		t.Fatal(err)
	}
	if offer.ID != lastID || offer.Label.Index != f.Index() || !slices.Equal(offer.Nodes, nodes[1:]) || len(survey.Offers) != 2 {
		t.Errorf("offer %+v of %d", offer, len(survey.Offers))
	}
	var peer *enrol.PeerError
	if err := survey.Silent["p1"]; !slices.Equal(survey.Answered, nodes[1:]) || !(errors.As(err, &peer) || strings.Contains(fmt.Sprint(err), "certificate")) {
		t.Errorf("answered %v, silent %v", survey.Answered, survey.Silent)
	}
	want, _ := os.ReadFile(last)
	if got, err := os.ReadFile(fetched); err != nil || !bytes.Equal(got, want) {
		t.Errorf("fetched %d bytes, %v", len(got), err)
	}
}

// TestOnlyTheController calls as others would.
func TestOnlyTheController(t *testing.T) {
	c := newCluster(t, "homelab")
	controller := c.slot(t, 0)
	where := serve(t, c.slot(t, 2), t.TempDir())
	fileID, data := backup(t, controller, "content")
	url := "https://" + where.String() + enrol.PathBackup
	call := func(config *tls.Config, method, path string, body io.Reader) (int, error) {
		transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
		r, err := http.NewRequest(method, url+path, body)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			return 0, err
		}
		defer answer.Body.Close()
		if answer.StatusCode >= 400 && answer.Header.Get("Content-Type") != "application/json" && answer.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: the answer is no JSON", method, path)
		}
		return answer.StatusCode, nil
	}
	as := func(id *enrol.Identity) *tls.Config { return enrol.ClientTLS(id, 2) }
	unsized := func() io.Reader { return struct{ io.Reader }{bytes.NewReader(data)} }
	noCertificate := as(controller)
	noCertificate.Certificates = nil
	cases := []struct {
		summary string
		config  *tls.Config
		method  string
		path    string
		body    io.Reader
		want    int // 0: no answer
	}{
		{"another slot asks", as(c.slot(t, 1)), "GET", "", nil, 403},
		{"another slot gives", as(c.slot(t, 1)), "PUT", "/" + fileID, bytes.NewReader(data), 403},
		{"the node itself", as(c.slot(t, 2)), "GET", "/" + fileID, nil, 403},
		{"nobody", noCertificate, "GET", "", nil, 0},
		{"nothing there yet", as(controller), "GET", "/" + fileID, nil, 404},
		{"no digest", as(controller), "PUT", "/newest", bytes.NewReader(data), 400},
		{"a path", as(controller), "PUT", "/..%2f..%2fetc", bytes.NewReader(data), 400},
		{"no size", as(controller), "PUT", "/" + fileID, unsized(), 411},
		{"another digest", as(controller), "PUT", "/" + strings.Repeat("0", 64), bytes.NewReader(data), 422},
		{"another method", as(controller), "DELETE", "/" + fileID, nil, 405},
		{"given", as(controller), "PUT", "/" + fileID, bytes.NewReader(data), 201},
		{"given again", as(controller), "PUT", "/" + fileID, bytes.NewReader(data), 200},
		{"there now", as(controller), "GET", "/" + fileID, nil, 200},
	}
	for _, tc := range cases {
		got, err := call(tc.config, tc.method, tc.path, tc.body)
		if got != tc.want || (err != nil) != (tc.want == 0) {
			t.Errorf("%s: %d, %v, want %d", tc.summary, got, err, tc.want)
		}
	}
	// The same authority's word for another cluster.
	stranger := newCluster(t, "elsewhere").slot(t, 0)
	if status, err := call(enrol.ClientTLS(stranger, 2), "GET", "", nil); err == nil {
		t.Errorf("another cluster: %d", status)
	}
}

// TestSilentCallers opens connections and says nothing: a node has memory for
// few of them, and the rest is closed at once.
func TestSilentCallers(t *testing.T) {
	where := serve(t, newCluster(t, "homelab").slot(t, 2), t.TempDir())
	var closed atomic.Int32
	const callers = 200
	for i := range callers {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 3, byte(i%100+1))}}
		c, err := d.Dial("tcp", where.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				closed.Add(1)
			}
		}()
	}
	deadline := time.Now().Add(30 * time.Second) // before a handshake is given up
	for closed.Load() < callers-24 {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d connections were closed", closed.Load(), callers)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestTooLarge announces more than a node takes, and sends nothing of it.
func TestTooLarge(t *testing.T) {
	c := newCluster(t, "homelab")
	where := serve(t, c.slot(t, 2), t.TempDir())
	conn, err := tls.Dial("tcp", where.String(), enrol.ClientTLS(c.slot(t, 0), 2))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "PUT %s/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", enrol.PathBackup, strings.Repeat("0", 64), int64(swarmbackup.MaxSize)+1)
	line := make([]byte, 12)
	if _, err := io.ReadFull(conn, line); err != nil || string(line) != "HTTP/1.1 413" {
		t.Errorf("%q, %v", line, err)
	}
}

// TestNodesThatLie: what comes from a node is believed by the controller's signature
// alone.
func TestNodesThatLie(t *testing.T) {
	c := newCluster(t, "homelab")
	controller := c.slot(t, 0)
	f := backuptest.New(t, t.TempDir(), "swarm", "node")
	dir := t.TempDir()
	takeOne := func(name string, by *enrol.Identity) (string, []byte) {
		t.Helper()
		file := filepath.Join(dir, name)
		if _, err := swarmbackup.Take(t.Context(), file, swarmbackup.Source{Identity: by, DockerRoot: f.DockerRoot}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fileID, _, err := swarmbackup.FileID(file)
		if err != nil {
			t.Fatal(err)
		}
		return fileID, data
	}
	olderID, older := takeOne("older", controller)
	f.Append(5)
	newerID, newer := takeOne("newer", controller)
	f.Append(5)
	// What a node would like the controller to restore: a swarm of its own.
	slot2 := *c.slot(t, 2)
	forgedID, forged := takeOne("forged", &slot2)
	header := func(data []byte) []byte {
		h, err := sealed.ReadHeader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		return h.Raw
	}
	damaged := bytes.Clone(newer)
	damaged[len(damaged)-1] ^= 1
	junk := make([]byte, 3000)
	rand.Read(junk)
	cases := []struct {
		summary string
		listing []swarmbackup.Entry
		files   map[string][]byte
		want    string // "": ErrNone
	}{
		{"honest", []swarmbackup.Entry{{ID: newerID, Header: header(newer)}, {ID: olderID, Header: header(older)}}, map[string][]byte{newerID: newer, olderID: older}, newerID},
		{"a swarm of its own", []swarmbackup.Entry{{ID: forgedID, Header: header(forged)}, {ID: olderID, Header: header(older)}}, map[string][]byte{forgedID: forged, olderID: older}, olderID},
		{"the newer one's label on the older one", []swarmbackup.Entry{{ID: olderID, Header: header(newer)}}, map[string][]byte{olderID: older}, ""},
		{"both labels on the older one", []swarmbackup.Entry{{ID: olderID, Header: header(newer)}, {ID: olderID, Header: header(older)}}, map[string][]byte{olderID: older}, olderID},
		{"a damaged newer one", []swarmbackup.Entry{{ID: newerID, Header: header(newer)}, {ID: olderID, Header: header(older)}}, map[string][]byte{newerID: damaged, olderID: older}, olderID},
		{"a newer one that is not there", []swarmbackup.Entry{{ID: newerID, Header: header(newer)}, {ID: olderID, Header: header(older)}}, map[string][]byte{olderID: older}, olderID},
		{"junk", []swarmbackup.Entry{{ID: "../x", Header: header(newer)}, {ID: newerID, Header: junk}, {ID: newerID}}, map[string][]byte{newerID: newer}, ""},
		{"the newest label on many things that are not there", manyOf(header(newer), olderID, header(older)), map[string][]byte{olderID: older}, ""},
		{"nothing", nil, nil, ""},
	}
	asked := 0
	var listing []swarmbackup.Entry
	var files map[string][]byte
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrol.PathBackup, func(w http.ResponseWriter, _ *http.Request) {
		enrol.WriteJSON(w, 200, swarmbackup.Listing{Backups: listing})
	})
	mux.HandleFunc("GET "+enrol.PathBackup+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		asked++
		if data, ok := files[r.PathValue("id")]; ok {
			w.Write(data)
			return
		}
		enrol.WriteError(w, &enrol.Error{Status: 404, Code: enrol.BadRequest, Detail: "gone"})
	})
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := enrol.NewServer(&slot2, mux, slog.New(slog.DiscardHandler))
	go server.ServeTLS(listener, "", "")
	t.Cleanup(func() { server.Close() })
	where := netip.MustParseAddrPort(listener.Addr().String())
	client := &swarmbackup.Client{Identity: controller, Port: where.Port()}
	for _, tc := range cases {
		listing, files, asked = tc.listing, tc.files, 0
		place := filepath.Join(t.TempDir(), "fetched")
		offer, survey, err := client.Newest(t.Context(), []swarmbackup.Node{{Name: "p2", Slot: 2, Addr: where.Addr()}}, place)
		if slices.ContainsFunc(survey.Offers, func(o swarmbackup.Offer) bool { return o.ID == forgedID }) {
			t.Errorf("%s: what the controller never signed is offered", tc.summary)
		}
		if asked > 8 {
			t.Errorf("%s: the node was asked %d times", tc.summary, asked)
		}
		if tc.want == "" {
			if !errors.Is(err, swarmbackup.ErrNone) {
				t.Errorf("%s: %+v, %v", tc.summary, offer, err)
			}
			if entries, _ := os.ReadDir(filepath.Dir(place)); len(entries) > 0 {
				t.Errorf("%s: left %v", tc.summary, entries)
			}
			continue
		}
		if err != nil || offer.ID != tc.want {
			t.Errorf("%s: %+v, %v, want %s", tc.summary, offer, err, tc.want)
		}
	}
}

// TestANodeThatStandsStill: the call ends though the node never does.
// manyOf lists one header under many ids, and then what there is.
func manyOf(header []byte, id string, is []byte) (all []swarmbackup.Entry) {
	for i := range 500 {
		all = append(all, swarmbackup.Entry{ID: fmt.Sprintf("%064x", i), Header: header})
	}
	return append(all, swarmbackup.Entry{ID: id, Header: is})
}

// TestANodeThatDrips sends a byte now and then, for ever.
func TestANodeThatDrips(t *testing.T) {
	c := newCluster(t, "homelab")
	slow, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	server := enrol.NewServer(c.slot(t, 1), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			select {
			case <-over:
				return
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}), slog.New(slog.DiscardHandler))
	go server.ServeTLS(slow, "", "")
	t.Cleanup(func() { close(over); server.Close() })
	where := netip.MustParseAddrPort(slow.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := &swarmbackup.Client{Identity: c.slot(t, 0), Port: where.Port(), Stall: 3 * time.Second}
	if _, err := client.List(ctx, swarmbackup.Node{Name: "p1", Slot: 1, Addr: where.Addr()}); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "too little") {
		t.Errorf("%v", err)
	}
}

func TestANodeThatStandsStill(t *testing.T) {
	c := newCluster(t, "homelab")
	silent, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	// One that shakes hands, and then gives the beginning of an answer.
	slow, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	server := enrol.NewServer(c.slot(t, 1), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "{")
		w.(http.Flusher).Flush()
		<-over
	}), slog.New(slog.DiscardHandler))
	go server.ServeTLS(slow, "", "")
	t.Cleanup(func() { close(over); server.Close() })
	for _, listener := range []net.Listener{silent, slow} {
		where := netip.MustParseAddrPort(listener.Addr().String())
		client := &swarmbackup.Client{Identity: c.slot(t, 0), Port: where.Port(), Stall: 500 * time.Millisecond}
		_, survey, err := client.Newest(t.Context(), []swarmbackup.Node{{Name: "p1", Slot: 1, Addr: where.Addr()}}, filepath.Join(t.TempDir(), "x"))
		if !errors.Is(err, swarmbackup.ErrNone) || survey.Silent["p1"] == nil {
			t.Errorf("%v, %+v", err, survey)
		}
	}
}
