package preserve_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller/preserve"
	"hatchery/firstboot/keep"
	node "hatchery/firstboot/preserve"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/kept"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/internal/testtool"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A lab is a controller with a keeper, and slot 2's node, with TLS between them.
type lab struct {
	t       testing.TB
	store   *identity.Store
	options preserve.Options
	keeper  *preserve.Keeper
	dir     string // the node's root
	uses    []swarm.Use
	away    bool          // the node does not answer
	unnamed bool          // its new root does not name srv
	calls   *enrol.Client // the node's
}

func (l *lab) identity(slot int) *enrol.Identity {
	l.t.Helper()
	name := "controller"
	if slot > 0 {
		name = clusterctrl.SlotName(slot)
	}
	files, err := l.store.Target(name, slot, "host"+name)
	must(l.t, err)
	id, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	must(l.t, err)
	return id
}

func newLab(t testing.TB, change func(*preserve.Options)) *lab {
	t.Helper()
	l := &lab{t: t, dir: filepath.Join(t.TempDir(), "root")}
	var err error
	l.store, err = identity.Open(filepath.Join(t.TempDir(), "identity"), "homelab")
	must(t, err)
	l.options = preserve.Options{
		Node:     &nodefile.Node{Cluster: "homelab", Role: nodefile.Controller, Name: "controller", Docker: true},
		Identity: l.identity(0), Dir: filepath.Join(t.TempDir(), "kept"), Stall: 20 * time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	// The node's end.
	backups, err := keep.Open(filepath.Join(t.TempDir(), "backups"))
	must(t, err)
	nodes, log := l.identity(2), l.options.Log
	serve := func(ctx context.Context, listener net.Listener) error {
		calls := make(map[string]http.Handler)
		for _, pattern := range []string{"GET " + kept.Path, "POST " + kept.PathStream} {
			calls[pattern] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				l.node().Calls()[pattern].ServeHTTP(w, r)
			})
		}
		return keep.Serve(ctx, listener, backups, nodes, log, calls)
	}
	where := l.run(serve)
	l.options.Port = where.Port()
	l.options.Addr = func(slot int) (netip.Addr, error) {
		if slot != 2 {
			return netip.Addr{}, errors.New("there is no such slot")
		}
		if l.away {
			return nowhere, nil
		}
		return where.Addr(), nil
	}
	if change != nil {
		change(&l.options)
	}
	l.reopen()
	// The controller's end.
	mux := http.NewServeMux()
	for pattern := range l.keeper.NodeCalls() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			peer, err := enrol.PeerOfRequest(r)
			if err != nil {
				t.Error(err)
			}
			l.keeper.NodeCalls()[pattern](w, r, peer.Slot)
		})
	}
	id := l.options.Identity
	controllers := l.run(func(ctx context.Context, listener net.Listener) error {
		server := enrol.NewServer(id, mux, log)
		defer context.AfterFunc(ctx, func() { server.Close() })()
		return server.ServeTLS(listener, "", "")
	})
	l.calls = enrol.NewClient(l.identity(2), controllers.Addr(), enrol.ClientOptions{Port: controllers.Port()})
	l.newRoot()
	return l
}

// run serves until the test ends.
func (l *lab) run(serve func(ctx context.Context, listener net.Listener) error) netip.AddrPort {
	l.t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	must(l.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = serve(ctx, listener) }()
	l.t.Cleanup(func() { cancel(); <-done })
	return netip.MustParseAddrPort(listener.Addr().String())
}

// reopen starts the service again.
func (l *lab) reopen() {
	l.t.Helper()
	var err error
	l.keeper, err = preserve.New(l.options)
	must(l.t, err)
}

// newRoot gives the node a new root: the old one is beside, as root-old.
func (l *lab) newRoot() {
	l.t.Helper()
	must(l.t, os.RemoveAll(l.dir+"-old"))
	if _, err := os.Lstat(l.dir); err == nil {
		must(l.t, os.Rename(l.dir, l.dir+"-old"))
	}
	for _, name := range []string{"state", "docker"} {
		must(l.t, os.MkdirAll(filepath.Join(l.dir, name), 0o755))
	}
}

func (l *lab) node() *node.Keeper {
	names := []string{nodefile.KeepVolumes}
	if !l.unnamed {
		names = append(names, filepath.Join(l.dir, "srv"))
	}
	return node.New(node.Options{
		Node:     &nodefile.Node{Cluster: "homelab", Name: "p2", Slot: 2, Keep: names},
		StateDir: filepath.Join(l.dir, "state"), DockerRoot: filepath.Join(l.dir, "docker"),
		Uses: func(context.Context) ([]swarm.Use, error) { return l.uses, nil },
		HTTP: l.calls.HTTP, URL: l.calls.URL, Log: l.options.Log,
	})
}

// lay writes a file of the node's.
func (l *lab) lay(name, content string) {
	l.t.Helper()
	at := filepath.Join(l.dir, name)
	must(l.t, os.MkdirAll(filepath.Dir(at), 0o755))
	must(l.t, os.WriteFile(at, []byte(content), 0o600))
}

func (l *lab) read(name string) string {
	content, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil {
		return "none"
	}
	return string(content)
}

// stored are the files in the keeper's folder.
func (l *lab) stored() string {
	l.t.Helper()
	entries, err := os.ReadDir(l.options.Dir)
	must(l.t, err)
	var all []string
	for _, e := range entries {
		info, err := e.Info()
		must(l.t, err)
		if info.Mode().Perm() != 0o600 {
			l.t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		name := e.Name()
		if strings.HasSuffix(name, ".tar.zst") {
			name = "archive"
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

const data = "docker/volumes/data/_data/f"

func TestOverTheWire(t *testing.T) {
	l := newLab(t, nil)
	must(t, l.node().Restore(t.Context(), nil)) // the first root: nothing
	l.lay(data, "first")
	l.lay("srv/x", "kept too")
	l.lay("var/y", "not kept")
	l.lay("docker/volumes/large/_data/f", strings.Repeat("0123456789abcdef", 3<<20))
	var told []string
	must(t, l.keeper.Save(t.Context(), 2, "", func(step, detail string) { told = append(told, step+": "+detail) }))
	if len(told) < 3 || told[0] != "save: asking what there is" || told[1] != "save: 16 MiB of 48 MiB" {
		t.Errorf("it told %q", told)
	}
	// Again, with something newer: that takes its place.
	l.lay(data, "newer")
	must(t, l.keeper.Save(t.Context(), 2, "", nil))
	if got := l.stored(); got != "archive p2.json" {
		t.Errorf("stored are %s", got)
	}
	// A service that is started again knows it; other nodes get nothing.
	l.reopen()
	view := l.keeper.View()
	if len(view) != 1 || view[0].Name != "p2" || view[0].Restored || len(view[0].Roots) != 3 || view[0].Stored > 1<<20 {
		t.Errorf("view %+v", view)
	}
	w := httptest.NewRecorder()
	l.keeper.NodeCalls()["GET "+kept.Path](w, httptest.NewRequest("GET", kept.Path, nil), 3)
	if strings.Contains(w.Body.String(), "digest") {
		t.Errorf("another slot is offered %s", w.Body)
	}

	// By hand, with zstd and tar.
	testtool.Need(t, "zstd")
	out, err := exec.Command("sh", "-c", `zstd -dc "$1" | tar -xOf - volumes/data/_data/f`, "sh", view[0].File).CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "newer") {
		t.Errorf("%s, %v", out, err)
	}

	l.newRoot()
	l.lay("srv/of the image", "i")
	// Nothing is saved of a root that has not got it back: that would be the end of it.
	must(t, l.keeper.Save(t.Context(), 2, "", nil))
	must(t, l.node().Restore(t.Context(), nil))
	for name, want := range map[string]string{data: "newer", "srv/x": "kept too", "srv/of the image": "none", "var/y": "none"} {
		if got := l.read(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if v := l.keeper.View(); len(v) != 1 || !v[0].Restored {
		t.Errorf("view %+v", v)
	}
	// It has it: a root after that gets nothing, unless it is saved again.
	l.newRoot()
	must(t, l.node().Restore(t.Context(), nil))
	if got := l.read(data); got != "none" {
		t.Errorf("it got %q again", got)
	}
}

// TestLetGo: it is kept until its node was Ready, and on for a while.
func TestLetGo(t *testing.T) {
	l := newLab(t, func(o *preserve.Options) { o.Hold = 50 * time.Millisecond })
	l.lay(data, "x")
	must(t, l.keeper.Save(t.Context(), 2, "upgrade-1", nil))
	done := enrol.StatusReport{State: enrol.StateDone}
	gone := func() bool { return len(l.keeper.View()) == 0 }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.keeper.Run(ctx) }()
	l.keeper.Heard(2, done, true) // of the root before
	time.Sleep(300 * time.Millisecond)
	if gone() {
		t.Fatal("it is gone before its node has it")
	}
	l.newRoot()
	must(t, l.node().Restore(t.Context(), nil))
	l.keeper.Heard(2, done, false)
	l.keeper.Heard(2, enrol.StatusReport{State: enrol.StateRunning}, true)
	time.Sleep(300 * time.Millisecond)
	if gone() {
		t.Fatal("it is gone before its node was Ready")
	}
	l.keeper.Heard(2, done, true)
	for deadline := time.Now().Add(30 * time.Second); !gone(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is kept for ever")
		}
	}
	if got := l.stored(); got != "" {
		t.Errorf("stored are %s", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	free := int64(1 << 40)
	l := newLab(t, func(o *preserve.Options) {
		o.Quota = 10 << 20
		o.Free = func(string) (int64, error) { return free, nil }
	})
	must(t, l.node().Restore(t.Context(), nil))
	if err := l.keeper.Save(t.Context(), 2, "", nil); err != nil || l.stored() != "" {
		t.Errorf("nothing: %v, stored %s", err, l.stored())
	}
	l.lay(data, "first")
	must(t, l.keeper.Save(t.Context(), 2, "", nil))
	before := l.keeper.View()
	for _, test := range []struct {
		summary string
		change  func()
		want    error
		words   string
	}{
		{"in use", func() { l.uses = []swarm.Use{{Container: "web.1", Volumes: []string{"data"}}} }, preserve.ErrInUse, "web.1 has volume data"},
		{"no room", func() { free = preserve.Reserve }, preserve.ErrTooBig, "has room for 0 KiB"},
		{"above the quota", func() {
			l.lay("docker/volumes/big/_data/f", strings.Repeat("b", 11<<20))
		}, preserve.ErrTooBig, "volume big has 11 MiB, volume data has 1 KiB"},
		{"another slot", nil, nil, "no such slot"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			slot := 2
			if test.change == nil {
				slot = 3
			} else {
				test.change()
			}
			defer func() { l.uses, free = nil, 1<<40 }()
			err := l.keeper.Save(t.Context(), slot, "", nil)
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("%v, want %v with %q", err, test.want, test.words)
			}
			if after := l.keeper.View(); len(after) != 1 || after[0].File != before[0].File {
				t.Errorf("what was kept before is %+v", after)
			}
		})
	}
	must(t, os.RemoveAll(filepath.Join(l.dir, "docker/volumes/big")))
	l.uses = []swarm.Use{{Container: "web.1", Volumes: []string{"data"}}}
	must(t, l.keeper.SaveForce(t.Context(), 2, nil))
	must(t, l.keeper.Drop(2))
	if got := l.stored(); got != "" {
		t.Errorf("stored are %s", got)
	}
	must(t, l.keeper.Drop(2))
}

// TestOnlyTheController: what a node has is nobody else's.
func TestOnlyTheController(t *testing.T) {
	l := newLab(t, nil)
	l.lay(data, "secret")
	addr, err := l.options.Addr(2)
	must(t, err)
	for _, slot := range []int{1, 2} {
		transport := &http.Transport{TLSClientConfig: enrol.ClientTLS(l.identity(slot), 2), DisableKeepAlives: true}
		for method, path := range map[string]string{"GET": kept.Path, "POST": kept.PathStream} {
			r, err := http.NewRequest(method, "https://"+netip.AddrPortFrom(addr, l.options.Port).String()+path, strings.NewReader(`{"roots":[{"kind":"volume","name":"data"}],"most":100000}`))
			must(t, err)
			answer, err := transport.RoundTrip(r)
			must(t, err)
			body, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			if answer.StatusCode != http.StatusForbidden || strings.Contains(string(body), "secret") {
				t.Errorf("slot %d: %s %s: %d %s", slot, method, path, answer.StatusCode, body)
			}
		}
	}
}

// TestLyingNodes: what a node says and sends is judged.
func TestLyingNodes(t *testing.T) {
	const quota = 8 << 20
	noise := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	looks := 0
	for _, test := range []struct {
		summary string
		plan    kept.Plan
		stream  func(w http.ResponseWriter)
		words   string
	}{
		{"many files to have room for what they are not", kept.Plan{Bytes: 1, Files: quota/1024 - 1, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, func(w http.ResponseWriter) {
			_, _ = w.Write(noise)
		}, "more than 8192 KiB, which"},
		{"more files than there is room for", kept.Plan{Bytes: quota / 2, Files: quota / 1024 * 3 / 4, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, nil, "at most 8192 KiB of a slot"},
		{"a card that fills up meanwhile", kept.Plan{Bytes: 7 << 20, Files: 1, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, func(w http.ResponseWriter) {
			looks = 3 // and then it is full
			_, _ = w.Write(noise[:7<<20])
		}, "less than 256 MiB left"},
		{"a plan of nothing less", kept.Plan{Bytes: -1, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, nil, "cannot be"},
		{"a root elsewhere", kept.Plan{Roots: []kept.Root{{Kind: kept.Volume, Name: "../x"}}}, nil, "neither a volume"},
		{"more than it said", kept.Plan{Bytes: 1, Files: 1, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, func(w http.ResponseWriter) {
			_, _ = w.Write(make([]byte, 4<<20))
		}, "did not say before"},
		{"no end", kept.Plan{Bytes: 1, Files: 1, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, func(w http.ResponseWriter) {
			_, _ = w.Write(make([]byte, 1000))
			w.Header().Set(kept.FailureTrailer, "its card is broken")
		}, "its card is broken"},
		{"another digest", kept.Plan{Bytes: 1, Files: 1, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, func(w http.ResponseWriter) {
			_, _ = w.Write(make([]byte, 1000))
			w.Header().Set(kept.Trailer, strings.Repeat("0", 64))
		}, "damaged"},
		{"a digest that is a path", kept.Plan{Bytes: 1, Files: 1, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, func(w http.ResponseWriter) {
			w.Header().Set(kept.Trailer, "../../x")
		}, "damaged"},
		{"broken off", kept.Plan{Bytes: 1, Files: 1, Roots: []kept.Root{{Kind: kept.Volume, Name: "v"}}}, func(w http.ResponseWriter) {
			_, _ = w.Write(make([]byte, 1000))
			_ = http.NewResponseController(w).Flush()
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				c.Close()
			}
		}, "broke off"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			looks = -1
			l := newLab(t, func(o *preserve.Options) {
				o.Quota = quota
				o.Free = func(string) (int64, error) {
					if looks == 0 {
						return preserve.Reserve - 1, nil
					}
					looks--
					return 1 << 40, nil
				}
			})
			id, log := l.identity(2), l.options.Log
			where := l.run(func(ctx context.Context, listener net.Listener) error {
				mux := http.NewServeMux()
				mux.HandleFunc("GET "+kept.Path, func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(test.plan) })
				mux.HandleFunc("POST "+kept.PathStream, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Trailer", kept.Trailer+", "+kept.FailureTrailer)
					test.stream(w)
				})
				server := enrol.NewServer(id, mux, log)
				defer context.AfterFunc(ctx, func() { server.Close() })()
				return server.ServeTLS(listener, "", "")
			})
			l.options.Port = where.Port()
			l.reopen()
			err := l.keeper.Save(t.Context(), 2, "", nil)
			if err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("%v, want %q", err, test.words)
			}
			if got := l.stored(); got != "" || len(l.keeper.View()) != 0 {
				t.Errorf("stored are %s", got)
			}
		})
	}
}

// TestLeftovers: what a killed service left is cleared away, and what cannot be read, or was
// not made by it as far as it knows, is left for a person.
func TestLeftovers(t *testing.T) {
	l := newLab(t, nil)
	l.lay(data, "x")
	must(t, l.keeper.Save(t.Context(), 2, "", nil))
	was := l.keeper.View()[0]
	lay := func(name, content string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(l.options.Dir, name), []byte(content), 0o600))
	}
	names := func() string {
		t.Helper()
		entries, err := os.ReadDir(l.options.Dir)
		must(t, err)
		var all []string
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return strings.Join(all, " ")
	}
	for _, name := range []string{"p2-mine.tar.zst", "p5-0123456789ab.tar.zst", "p2.json.tar.zst", "p7-0123456789ab.tar.zst", "p7.json.tar.zst", "p7.json"} {
		lay(name, "{")
	}
	l.reopen()
	mine := filepath.Base(was.File)
	if got, want := names(), mine+" p2-mine.tar.zst p2.json p5-0123456789ab.tar.zst p7-0123456789ab.tar.zst p7.json p7.json.tar.zst"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	if v := l.keeper.View(); len(v) != 2 || v[0].Slot != 2 || v[0].Damaged != "" || v[1].Slot != 7 || v[1].Damaged == "" {
		t.Errorf("view %+v", v)
	}
	must(t, l.keeper.Drop(7))
	must(t, os.Remove(filepath.Join(l.options.Dir, "p5-0123456789ab.tar.zst")))

	// Killed when the next one was noted: it gets to its place, and the one before goes.
	record := filepath.Join(l.options.Dir, "p2.json")
	text, err := os.ReadFile(record)
	must(t, err)
	archive, err := os.ReadFile(was.File)
	must(t, err)
	before := "p2-" + strings.Repeat("f", 12) + ".tar.zst"
	lay(before, "of the one before")
	must(t, os.Rename(was.File, filepath.Join(l.options.Dir, "p2.json.tar.zst")))
	must(t, os.WriteFile(record, []byte(strings.TrimSuffix(string(text), "}")+`,"former":"`+strings.Repeat("f", 64)+`"}`), 0o600))
	l.reopen()
	if got, want := names(), mine+" p2-mine.tar.zst p2.json"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	if again, err := os.ReadFile(was.File); err != nil || string(again) != string(archive) || !l.keeper.Waits(2) {
		t.Errorf("the archive is %d bytes, %v", len(again), err)
	}
	// Killed before it was noted: the one before is what there is.
	lay("p2.json.tar.zst", string(archive)+"newer")
	l.reopen()
	if got, want := names(), mine+" p2-mine.tar.zst p2.json"; got != want || !l.keeper.Waits(2) {
		t.Errorf("there are %s, want %s", got, want)
	}
}

// TestDamaged: of a slot whose record cannot be read nobody knows what is kept. Its node is
// not told that there is nothing, it waits; nothing is saved in the place, and no root made
// that would be without; until a person has thrown it away.
func TestDamaged(t *testing.T) {
	l := newLab(t, nil)
	l.lay(data, "x")
	must(t, l.keeper.Save(t.Context(), 2, "", nil))
	archive := l.keeper.View()[0].File
	record := filepath.Join(l.options.Dir, "p2.json")
	must(t, os.WriteFile(record, []byte(`{"digest":"`), 0o600))
	l.reopen()
	l.newRoot()
	l.lay("docker/volumes/other/_data/f", "o")
	_, again := l.keeper.Again(2, "upgrade-1")
	c := preserve.Client{Caller: caller{l.keeper.Calls()}}
	_, plan := c.Plan(t.Context(), 2)
	for summary, err := range map[string]error{
		"its node":                    l.node().Restore(t.Context(), nil),
		"saving":                      l.keeper.Save(t.Context(), 2, "upgrade-1", nil),
		"a rebuild without it":        l.keeper.Withhold(2, "rebuild-1"),
		"going back":                  again,
		"who asks what would be kept": plan,
		"who fetches it":              c.Archive(t.Context(), 2, io.Discard),
	} {
		for _, part := range []string{record, archive, "hatchery rebuild --kept p2 --drop"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s is told %v, without %q", summary, err, part)
			}
		}
	}
	must(t, l.keeper.Release(2, "upgrade-1", true)) // an operation that failed by it comes to its end
	v, err := c.View(t.Context())
	must(t, err)
	if len(v) != 1 || v[0].Damaged == "" || v[0].File != archive || v[0].Waits {
		t.Errorf("view %+v", v)
	}
	if got := l.stored(); got != "archive p2.json" {
		t.Errorf("stored are %s", got)
	}
	must(t, c.Drop(t.Context(), 2))
	if got := l.stored(); got != "" {
		t.Errorf("stored are %s", got)
	}
	must(t, l.node().Restore(t.Context(), nil))
	must(t, l.keeper.Save(t.Context(), 2, "upgrade-1", nil))
}

// TestCalls are the command line's.
func TestCalls(t *testing.T) {
	l := newLab(t, nil)
	l.lay(data, "x")
	must(t, l.keeper.Save(t.Context(), 2, "", nil))
	c := preserve.Client{Caller: caller{l.keeper.Calls()}}
	if v, err := c.View(t.Context()); err != nil || len(v) != 1 || v[0].Slot != 2 {
		t.Errorf("%+v, %v", v, err)
	}
	if p, err := c.Plan(t.Context(), 2); err != nil || len(p.Roots) != 1 || p.Bytes == 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := c.Plan(t.Context(), 3); err == nil {
		t.Error("there is no slot 3")
	}
	// What is fetched is for zstd and tar.
	place := filepath.Join(t.TempDir(), "p2.tar.zst")
	f, err := os.Create(place)
	must(t, err)
	must(t, c.Archive(t.Context(), 2, f))
	must(t, f.Close())
	testtool.Need(t, "zstd")
	out, err := exec.Command("sh", "-c", `zstd -dc "$1" | tar -xOf - volumes/data/_data/f`, "sh", place).CombinedOutput()
	if err != nil || string(out) != "x" {
		t.Errorf("%s, %v", out, err)
	}
	if err := c.Archive(t.Context(), 1, io.Discard); err == nil || !strings.Contains(err.Error(), "nothing is kept of p1") {
		t.Error(err)
	}
	must(t, c.Drop(t.Context(), 2))
	if v, err := c.View(t.Context()); err != nil || len(v) != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

type caller struct{ to http.Handler }

func (c caller) Copy(ctx context.Context, path string, w io.Writer) error {
	server := httptest.NewServer(c.to)
	defer server.Close()
	answer, err := http.Get(server.URL + path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		return errors.New(string(text))
	}
	_, err = io.Copy(w, answer.Body)
	return err
}

func (c caller) Call(ctx context.Context, method, path string, v any) error {
	w := httptest.NewRecorder()
	c.to.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, nil))
	if w.Code != http.StatusOK {
		return errors.New(w.Body.String())
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(w.Body.Bytes(), v)
}
